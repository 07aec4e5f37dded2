//! `mortar workers …`: lets workers rest, work again, or leave. The server that they work for is asked over its admin
//! socket, since this is its owner's to say.

use super::{failed, server};
use crate::settings::StoreFlags;
use clap::Subcommand;
use mortar_wire::admin::{TendWorkersRequest, tend_workers_request::Wish};

/// What workers are to do.
#[derive(Subcommand)]
pub enum Command {
    /// Let a worker finish what it runs and take nothing new, until it is resumed.
    Pause(Named),
    /// Let a worker take work again.
    Resume(Named),
    /// Let a worker finish what it runs, and leave.
    Drain(Named),
}

/// Which workers, of which server.
#[derive(clap::Args)]
pub struct Named {
    /// The worker's name, as `mortar status` tells it; all workers of that name are meant.
    name: String,
    #[command(flatten)]
    store: StoreFlags,
}

/// Does what was asked for.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let (wish, named, now) = match command {
        Command::Pause(named) => (Wish::Pause, named, "is paused"),
        Command::Resume(named) => (Wish::Resume, named, "takes work"),
        Command::Drain(named) => (Wish::Drain, named, "finishes what it runs, and leaves"),
    };
    let mut server = server(named.store).await?;
    let request = TendWorkersRequest { name: named.name.clone(), wish: wish.into() };
    server.tend_workers(request).await.map_err(failed)?;
    println!("worker `{}` {now}", named.name);
    Ok(())
}
