//! `mortar operations …`: lists the executions that wait and run on a server, by the names that clients know them by, and
//! cancels them.

use crate::{ask::Server, settings::DEFAULT_ADDRESS, table::table, units::lasting};
use clap::Subcommand;
use mortar_wire::{
    longrunning::{
        CancelOperationRequest, ListOperationsRequest, Operation, operations_client::OperationsClient,
    },
    metadata_from_wire,
    reapi::{ExecuteOperationMetadata, RequestMetadata, execution_stage::Value as Stage},
    timestamp_from_wire,
};
use prost::Message;
use serde_json::json;
use std::time::{Duration, SystemTime};

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// List the executions that are not over, those that were asked for first at the top.
    List(List),
    /// End an execution, for all clients that wait for it under this name.
    Cancel(Cancel),
}

/// Which server.
#[derive(clap::Args)]
struct ServerFlag {
    /// The server: grpc://HOST:PORT or unix:PATH.
    #[arg(long, env = "MORTAR_SERVER", value_name = "URL", default_value_t = format!("grpc://{DEFAULT_ADDRESS}"))]
    server: String,
}

/// Flags of `mortar operations list`.
#[derive(clap::Args)]
pub struct List {
    #[command(flatten)]
    server: ServerFlag,
    /// Only those of this instance; `""` is the one without a name [default: all].
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `mortar operations cancel`.
#[derive(clap::Args)]
pub struct Cancel {
    /// The operation's name, as `mortar operations list` tells it.
    name: String,
    #[command(flatten)]
    server: ServerFlag,
}

/// Does what was asked for.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Cancel(arguments) => cancel(arguments).await,
    }
}

async fn cancel(Cancel { name, server }: Cancel) -> anyhow::Result<()> {
    let server = Server::at(&server.server)?;
    let mut client = OperationsClient::new(server.channel());
    server.answer(client.cancel_operation(CancelOperationRequest { name: name.clone() })).await?;
    println!("operation `{name}` was told to end");
    Ok(())
}

async fn list(arguments: List) -> anyhow::Result<()> {
    let parent = match arguments.instance.as_deref() {
        None => String::new(),
        Some("") => "operations".into(),
        Some(instance) => format!("{instance}/operations"),
    };
    let server = Server::at(&arguments.server.server)?;
    let operations = all(&server, parent, "").await?;
    let mut open: Vec<_> = operations.iter().map(Open::read).collect::<Result<_, _>>()?;
    open.sort_by_key(|open| open.queued);
    if arguments.json {
        let open: Vec<_> = open.iter().map(Open::json).collect();
        println!("{}", json!({ "operations": open }));
    } else if open.is_empty() {
        eprintln!("nothing waits or runs");
    } else {
        let head = ["OPERATION", "STAGE", "KIND", "FOR", "TARGET", "INVOCATION"];
        print!("{}", table(&head, open.iter().map(Open::row)));
    }
    Ok(())
}

/// Page by page; those that are not over unless the filter says otherwise.
pub async fn all(server: &Server, name: String, filter: &str) -> anyhow::Result<Vec<Operation>> {
    let mut client = OperationsClient::new(server.channel());
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let (name, filter) = (name.clone(), filter.to_owned());
        let request = ListOperationsRequest { name, filter, page_token, ..Default::default() };
        let page = server.answer(client.list_operations(request)).await?;
        found.extend(page.operations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// What is told of an execution.
pub struct Open<'a> {
    /// Of the operation.
    pub name: &'a str,
    stage: &'static str,
    /// `HASH/SIZE` of the action.
    pub action: String,
    request: RequestMetadata,
    queued: Option<SystemTime>,
    /// Why it waits, where it does.
    pub reason: Option<String>,
}

impl<'a> Open<'a> {
    /// What a message tells.
    pub fn read(operation: &'a Operation) -> Result<Self, prost::DecodeError> {
        let metadata = operation.metadata.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let metadata = ExecuteOperationMetadata::decode(metadata)?;
        let stage = match metadata.stage() {
            Stage::Unknown => "begun",
            Stage::CacheCheck => "cache check",
            Stage::Queued => "waiting",
            Stage::Executing => "running",
            Stage::Completed => "over",
        };
        let partial = metadata.partial_execution_metadata.unwrap_or_default();
        let mut told = partial.auxiliary_metadata.iter();
        let request = told.find(|any| any.type_url.ends_with(".RequestMetadata"));
        let request = request.map(|any| RequestMetadata::decode(any.value.as_slice())).transpose()?;
        let action = metadata.action_digest.unwrap_or_default();
        Ok(Self {
            name: &operation.name,
            stage,
            action: format!("{}/{}", action.hash, action.size_bytes),
            request: request.unwrap_or_default(),
            queued: timestamp_from_wire(partial.queued_timestamp),
            reason: metadata_from_wire(partial).waiting.map(|waiting| waiting.reason.to_string()),
        })
    }

    /// How long it has been waited for, by the clocks of both machines.
    fn asked_for(&self) -> Option<Duration> {
        self.queued.map(|queued| queued.elapsed().unwrap_or_default())
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        vec![
            self.name.to_owned(),
            self.stage.to_owned(),
            or_dash(&self.request.action_mnemonic),
            self.asked_for().map_or_else(|| "-".to_owned(), lasting),
            or_dash(&self.request.target_id),
            or_dash(&self.request.tool_invocation_id),
        ]
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "name": self.name, "stage": self.stage, "action": self.action,
            "mnemonic": self.request.action_mnemonic, "target": self.request.target_id,
            "invocation": self.request.tool_invocation_id,
            "asked_for_ms": self.asked_for().map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}
