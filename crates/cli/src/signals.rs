//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once.

use std::process;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels. At the second, the process ends with the code of an interrupted program.
pub fn stop_token() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        eprintln!("stopping: what runs is finished first; once more to stop at once");
        stop.cancel();
        next().await;
        eprintln!("stopped at once");
        process::exit(130);
    });
    Ok(token)
}
