//! `cargo xtask badnet --to HOST:PORT`: the bad network of `testkit` by hand.

use anyhow::{Context, Result};
use mortar_testkit::network::{Link, Plan, Relay, Script, duration, rate};
use std::{path::PathBuf, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `cargo xtask badnet`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The server at the far end, as HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// The port to listen on, on 127.0.0.1; any free one by default.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    listen: u16,
    /// How long each byte takes, each way, such as 50ms.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0ms")]
    latency: Duration,
    /// The rate each way, shared by all connections, such as 10mbit; unlimited by default.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<u64>,
    /// The share of packets that are lost and come later, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    loss: f64,
    /// What changes when, one change a line: `at 5s blackhole`, `after 10MiB reset`, `at 9s flap every 2s for 300ms down`.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// The same seed loses the same packets.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Stop after this long; by default when asked to (Ctrl-C).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    lasting: Option<Duration>,
}

/// Prints where the relay listens, and what went through when it ends.
pub fn run(arguments: &Arguments) -> Result<()> {
    let link =
        Link { latency: arguments.latency, rate: arguments.rate, loss: arguments.loss, ..Link::default() };
    let script = match &arguments.script {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("reading the script `{}`", path.display()))?;
            text.parse::<Script>().with_context(|| format!("the script `{}`", path.display()))?
        }
        None => Script::default(),
    };
    let plan = Plan { script, seed: arguments.seed, port: arguments.listen };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupted, mut terminated) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let relay = Relay::start_with(&arguments.to, link, plan)?;
        println!("{}", relay.address());
        let over = async {
            match arguments.lasting {
                Some(lasting) => tokio::time::sleep(lasting).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            () = over => {}
        }
        println!("{}", relay.counts());
        Ok(())
    })
}
