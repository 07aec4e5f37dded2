//! `mortar server`, and what `mortar up` shares with it: opening a server, telling that it is ready, ending it.

use crate::{
    settings::{ServeFlags, Settings, WorkFlags},
    signals,
};
use mortar_server::{
    Server,
    admin::{self, AdminSocket},
    bazelrc,
};
use mortar_services::listener::{self, Listener};
use std::{io::Write, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long actions that run may take to end after the first Ctrl-C. The second does not wait.
const DRAIN: Duration = Duration::from_secs(24 * 3600);
/// How long open calls may take to end after the last action did.
const LINGER: Duration = Duration::from_secs(30);

/// Flags of `mortar server`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    serve: ServeFlags,
}

/// Serves until a signal comes.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let opened = Opened::new(arguments.serve.settle(WorkFlags::default())?).await?;
    opened.serve(signals::stop_token()?).await
}

/// A server that owns its port and its directory.
pub struct Opened {
    /// The server.
    pub server: Server,
    listener: Listener,
    /// None where the path of the data directory is too long for one.
    admin: Option<AdminSocket>,
}

impl Opened {
    /// Takes the port first, so that a port in use changes nothing on disk, then the directory.
    pub async fn new(settings: Settings) -> anyhow::Result<Self> {
        let listener = Listener::bind(&settings.listen).await?;
        let directory = settings.data_directory().to_owned();
        let server = Server::assemble(settings.server)?;
        // Who has the store has the socket beside it.
        let admin = match admin::socket_path(&directory) {
            Ok(_) => Some(AdminSocket::bind(&directory)?),
            Err(error) => {
                tracing::warn!(
                    "there is no admin socket, so `mortar purge`, `store` and `workers` cannot be used: {error}"
                );
                None
            }
        };
        Ok(Self { server, listener, admin })
    }

    /// Tells that it is ready and serves until `stop` is cancelled; then finishes what runs.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let router = self.server.router(&self.listener);
        announce(&self.listener.url())?;
        let (drained, closing) = (CancellationToken::new(), CancellationToken::new());
        let admin = self.admin.map(|socket| {
            let service = admin::service(
                self.server.care.clone(),
                Some(self.server.scheduler.clone()),
                closing.clone(),
            );
            tokio::spawn(socket.serve(service, closing.clone()))
        });
        let serving = listener::serve(self.listener, router, drained.clone().cancelled_owned());
        let draining = async {
            stop.cancelled().await;
            self.server.shutdown(DRAIN).await;
            drained.cancel();
            tokio::time::sleep(LINGER).await;
        };
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            () = &mut serving => {}
            () = draining => {}
        }
        closing.cancel();
        if let Some(admin) = admin
            && tokio::time::timeout(LINGER, admin).await.is_err()
        {
            tracing::warn!("a call to the admin socket does not end; it is left behind");
        }
        Ok(())
    }
}

/// The line that scripts wait for, and those that people paste.
fn announce(url: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "ready {url}\n\n{}", bazelrc::lines(url))?;
    out.flush()?;
    Ok(())
}
