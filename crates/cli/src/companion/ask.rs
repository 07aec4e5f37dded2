//! Asking the companion that runs, over its unix socket.

use super::{HomeFlags, show};
use crate::{ask::Server, units::Span};
use anyhow::bail;
use mortar_companion::life::Whereabouts;
use mortar_wire::{
    companion::{
        CompanionStatus, FlushRequest, FlushResponse, GetStatusRequest, StopRequest,
        companion_client::CompanionClient,
    },
    duration_to_wire,
};
use std::process::ExitCode;
use tonic::transport::Channel;

/// Flags of `mortar companion status`.
#[derive(clap::Args)]
pub struct StatusArguments {
    #[command(flatten)]
    home: HomeFlags,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `mortar companion flush`.
#[derive(clap::Args)]
pub struct FlushArguments {
    #[command(flatten)]
    home: HomeFlags,
    /// Give up after so long, such as 5min [default: never].
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
}

/// Flags of `mortar companion stop`.
#[derive(clap::Args)]
pub struct StopArguments {
    #[command(flatten)]
    home: HomeFlags,
}

/// Prints how it is doing.
pub async fn status(arguments: StatusArguments) -> anyhow::Result<()> {
    let status = status_of(&living(&arguments.home).await?).await?;
    match arguments.json {
        true => println!("{:#}", show::json(&status)),
        false => print!("{}", show::text(&status)),
    }
    Ok(())
}

/// Waits until all is upstream. What cannot be is told, and makes it fail.
pub async fn flush(arguments: FlushArguments) -> anyhow::Result<ExitCode> {
    let living = living(&arguments.home).await?;
    let (_, mut client) = dial(&living)?;
    let request = FlushRequest { timeout: arguments.timeout.map(|span| duration_to_wire(span.0)) };
    let FlushResponse { left, trouble, refused } = match client.flush(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => bail!("the companion cannot tell that all is upstream: {}", status.message()),
    };
    let left = left.unwrap_or_default();
    for refused in &refused {
        eprintln!("refused: {}: {}", refused.what, refused.why);
    }
    if left.blobs + left.results > 0 {
        let trouble = if trouble.is_empty() { String::new() } else { format!(": {trouble}") };
        eprintln!("not yet upstream: {}{trouble}", show::owed(&left));
    }
    let whole = refused.is_empty() && left.blobs + left.results == 0;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends it, and waits until it has ended.
pub async fn stop(arguments: StopArguments) -> anyhow::Result<()> {
    let living = living(&arguments.home).await?;
    let (server, mut client) = dial(&living)?;
    let left = server.answer(client.stop(StopRequest {})).await?.left.unwrap_or_default();
    let ownership = arguments.home.home()?.succeed().await?;
    drop(ownership);
    if left.blobs + left.results > 0 {
        eprintln!("{} are uploaded when it runs again", show::owed(&left));
    }
    Ok(())
}

/// How a companion is doing.
pub(super) async fn status_of(living: &Whereabouts) -> anyhow::Result<CompanionStatus> {
    let (server, mut client) = dial(living)?;
    server.answer(client.get_status(GetStatusRequest {})).await
}

fn dial(living: &Whereabouts) -> anyhow::Result<(Server, CompanionClient<Channel>)> {
    let server = Server::at(&format!("unix:{}", living.socket.display()))?;
    let client = CompanionClient::new(server.channel());
    Ok((server, client))
}

async fn living(flags: &HomeFlags) -> anyhow::Result<Whereabouts> {
    let home = flags.home()?;
    match home.living().await {
        Some(living) => Ok(living),
        None => bail!("no companion runs in `{}`", home.directory().display()),
    }
}
