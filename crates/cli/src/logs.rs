//! `mortar logs OPERATION`: what an action has written by now, and then what it writes, until its end. Of one that is over,
//! what its result has.

use crate::{
    ask::Server,
    operations::{Open, all},
    settings::DEFAULT_ADDRESS,
};
use anyhow::{anyhow, bail};
use mortar_wire::{
    bytestream::{QueryWriteStatusRequest, ReadRequest, byte_stream_client::ByteStreamClient},
    longrunning::{
        GetOperationRequest, Operation, operation::Result as End, operations_client::OperationsClient,
    },
    reapi::{ExecuteOperationMetadata, ExecuteResponse, execution_stage::Value as Stage},
};
use prost::Message;
use std::io::Write;
use tonic::{Code, Status};

/// The fewest characters of a name or digest that are taken for a part of one.
const SHORTEST: usize = 4;

/// Flags of `mortar logs`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The operation's name as `mortar operations list` tells it, its beginning or its end, or the beginning of the action's
    /// hash.
    operation: String,
    /// The server: grpc://HOST:PORT or unix:PATH.
    #[arg(long, env = "MORTAR_SERVER", value_name = "URL", default_value_t = format!("grpc://{DEFAULT_ADDRESS}"))]
    server: String,
    /// Only standard output.
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Only standard error.
    #[arg(long)]
    stderr: bool,
    /// Go on until the action ends; `--follow=false` tells what was written by now.
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    follow: bool,
}

/// Tells what the action writes: its standard output on ours, its standard error on ours.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let server = Server::at(&arguments.server)?;
    let name = find(&server, &arguments.operation).await?;
    let operation = get(&server, &name).await?;
    let metadata = metadata(&operation)?;
    if metadata.stage() < Stage::Executing && !operation.done {
        eprintln!("operation `{name}` is not on a worker yet: {}", why_not(&operation));
        if !arguments.follow {
            return Ok(());
        }
    }
    let both = !arguments.stdout && !arguments.stderr;
    let source = Source { server: &server, operation: &name, follow: arguments.follow && !operation.done };
    let stdout = async {
        match both || arguments.stdout {
            true => source.copy(&metadata.stdout_stream_name, "stdout", &mut std::io::stdout()).await,
            false => Ok(()),
        }
    };
    let stderr = async {
        match both || arguments.stderr {
            true => source.copy(&metadata.stderr_stream_name, "stderr", &mut std::io::stderr()).await,
            false => Ok(()),
        }
    };
    tokio::try_join!(stdout, stderr)?;
    let operation = get(&server, &name).await?;
    if operation.done {
        tell_end(&operation)?;
    }
    Ok(())
}

/// The name of the one operation that is meant.
async fn find(server: &Server, meant: &str) -> anyhow::Result<String> {
    let mut known = all(server, String::new(), "").await?;
    known.extend(all(server, String::new(), "done=true").await?);
    let known: Vec<_> = known.iter().map(Open::read).collect::<Result<_, _>>()?;
    let names = known.iter().map(|open| (open.name, open.action.as_str()));
    choose(meant, &names.collect::<Vec<_>>()).map(str::to_owned)
}

/// Which of these (name, action) is meant. An exact name is always one; the latest of those that have the same action
/// cannot be told, so that they are all named.
fn choose<'a>(meant: &str, known: &[(&'a str, &str)]) -> anyhow::Result<&'a str> {
    if let Some((name, _)) = known.iter().find(|(name, _)| *name == meant) {
        return Ok(name);
    }
    if meant.len() < SHORTEST {
        bail!(
            "no operation is named `{meant}`; a part of a name or hash needs at least {SHORTEST} characters"
        );
    }
    let is_meant = |(name, action): &&(&str, &str)| {
        let id = name.rsplit('/').next().unwrap_or_default();
        name.starts_with(meant) || id.starts_with(meant) || name.ends_with(meant) || action.starts_with(meant)
    };
    let found: Vec<_> = known.iter().filter(is_meant).collect();
    match found[..] {
        [(name, _)] => Ok(name),
        [] => bail!(
            "no operation or action that the server knows is named `{meant}`\n\
             Hint: operations are known while they wait and run, and for two minutes after their end; then the action's \
             result has its logs"
        ),
        _ => {
            let names: String = found.iter().map(|(name, _)| format!("\n  {name}")).collect();
            bail!("`{meant}` may mean {} operations:{names}", found.len())
        }
    }
}

async fn get(server: &Server, name: &str) -> anyhow::Result<Operation> {
    let mut client = OperationsClient::new(server.channel());
    server.answer(client.get_operation(GetOperationRequest { name: name.to_owned() })).await
}

fn metadata(operation: &Operation) -> anyhow::Result<ExecuteOperationMetadata> {
    let value = operation.metadata.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
    Ok(ExecuteOperationMetadata::decode(value)?)
}

fn why_not(operation: &Operation) -> String {
    Open::read(operation).ok().and_then(|open| open.reason).unwrap_or_else(|| "it was just begun".into())
}

/// How it ended, on stderr.
fn tell_end(operation: &Operation) -> anyhow::Result<()> {
    let Some(End::Response(any)) = &operation.result else { return Ok(()) };
    let response = ExecuteResponse::decode(any.value.as_slice())?;
    let status = response.status.unwrap_or_default();
    let code = response.result.as_ref().map(|result| result.exit_code);
    let cached = if response.cached_result { " (from the cache)" } else { "" };
    match (status.code, code) {
        (0, Some(code)) => eprintln!("the action ended with exit code {code}{cached}"),
        _ => eprintln!("the action ended without success: {}", status.message),
    }
    if !response.message.is_empty() && response.message != status.message {
        eprintln!("{}", response.message);
    }
    Ok(())
}

/// Where logs come from.
struct Source<'a> {
    server: &'a Server,
    operation: &'a str,
    follow: bool,
}

impl Source<'_> {
    /// Copies one log, as it comes. Where the worker that wrote it failed, the log of the next one is told from its start.
    async fn copy(&self, name: &str, what: &str, out: &mut dyn Write) -> anyhow::Result<()> {
        let (instance, id) = self.operation.rsplit_once("operations/").unwrap_or_default();
        // Before it is queued, an operation tells no names.
        let name = match name {
            "" => format!("{instance}logstreams/{id}-{what}"),
            told => told.to_owned(),
        };
        while let Err(status) = self.read(&name, out).await? {
            match status.code() {
                Code::Aborted => eprintln!("the worker failed; another begins anew, and with it this log"),
                _ => return Err(anyhow!("{}", status.message())),
            }
        }
        Ok(())
    }

    async fn read(&self, name: &str, out: &mut dyn Write) -> anyhow::Result<Result<(), Status>> {
        let mut client = ByteStreamClient::new(self.server.channel());
        let mut read_limit = 0;
        if !self.follow {
            let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
            read_limit = self.server.answer(client.query_write_status(request)).await?.committed_size;
            if read_limit == 0 {
                return Ok(Ok(()));
            }
        }
        let request = ReadRequest { resource_name: name.to_owned(), read_offset: 0, read_limit };
        let mut pieces = match client.read(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            match pieces.message().await {
                Ok(Some(piece)) => {
                    out.write_all(&piece.data)?;
                    out.flush()?;
                }
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn a_part_names_an_operation_if_it_names_no_other() {
        let known = [
            ("operations/abcd-1", "1111/1"),
            ("team/operations/abxy-2", "2222/1"),
            ("operations/zz-22", "1111/1"),
        ];
        for (meant, expected) in [
            ("operations/abcd-1", "operations/abcd-1"),
            ("abcd", "operations/abcd-1"),
            ("xy-2", "team/operations/abxy-2"),
            ("team/oper", "team/operations/abxy-2"),
            ("2222", "team/operations/abxy-2"),
            ("2222/1", "team/operations/abxy-2"),
        ] {
            assert_eq!(choose(meant, &known).ok(), Some(expected), "{meant}");
        }
        for (meant, needle) in [
            ("ab", "at least 4 characters"),
            ("1111", "may mean 2 operations:\n  operations/abcd-1\n  operations/zz-22"),
            ("oper", "may mean 2"),
            ("nobody", "no operation or action that the server knows is named `nobody`"),
        ] {
            let told = choose(meant, &known).map_err(|error| error.to_string()).unwrap_err();
            assert!(told.contains(needle), "{meant}: {told}");
        }
    }
}
