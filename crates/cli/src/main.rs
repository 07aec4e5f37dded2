//! `mortar`: the one binary. Each subcommand is a file; what they share is in `settings`.
//!
//! stdout is data (the ready line, the `.bazelrc` lines, reports), stderr is talk.

mod ask;
mod bazelrc;
mod bench;
mod care;
mod companion;
mod credential_helper;
mod image;
mod logs;
mod operations;
mod pools;
mod server;
mod settings;
mod signals;
mod status;
mod table;
mod units;
mod up;
mod usable;
mod worker;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Freed memory goes back to the system soon: after a burst of streams, resident memory is what is in use.
// SAFETY: the allocator reads this symbol, a pointer to a string that ends with a NUL byte, once at its start.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_OPTIONS: &[u8; 61] = b"background_thread:true,dirty_decay_ms:200,muzzy_decay_ms:200\0";

/// Remote caching and execution for Bazel and every other client of the Remote Execution API.
#[derive(Parser)]
#[command(name = "mortar", version, propagate_version = true, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve everything from this machine: cache, scheduler and a worker, without configuration.
    Up(up::Arguments),
    /// Serve the cache and the scheduler; workers come from elsewhere.
    Server(server::Arguments),
    /// Run actions for a server.
    Worker(worker::Arguments),
    /// Stand between Bazel and its servers on this machine: a local cache, uploads in the background.
    Companion(Box<companion::Arguments>),
    /// Print the lines for a `.bazelrc`.
    Bazelrc(bazelrc::Arguments),
    /// Tell what a server is doing: what waits and why, its workers, what they run.
    Status(status::Arguments),
    /// List the executions that wait and run on a server, and cancel them.
    Operations {
        #[command(subcommand)]
        command: operations::Command,
    },
    /// Tell what an action writes while it runs, or has written.
    Logs(logs::Arguments),
    /// Pause, resume or drain the workers of a server.
    Workers {
        #[command(subcommand)]
        command: care::workers::Command,
    },
    /// Remove from a data directory what must not be served any more.
    Purge(care::purge::Arguments),
    /// Verify a data directory, tell how it is doing, fill it from other caches.
    Store {
        #[command(subcommand)]
        command: care::store::Command,
    },
    /// The images in which a worker runs actions that ask for one.
    Image {
        #[command(subcommand)]
        command: image::Command,
    },
    /// Credentials for Bazel: a credential helper over the sources that Mortar knows.
    CredentialHelper {
        #[command(subcommand)]
        command: credential_helper::Command,
    },
    /// Measure any server of the Remote Execution API.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    mortar_sandbox::init_if_asked();
    let arguments = Arguments::parse_from(credential_helper::arguments(std::env::args_os()));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MORTAR_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Bazelrc(arguments) = command {
        return bazelrc::run(&arguments).map(|()| ExitCode::SUCCESS);
    }
    if let Command::Image { command } = command {
        return image::run(command).map(|()| ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Up(arguments) => up::run(arguments).await?,
            Command::Server(arguments) => server::run(arguments).await?,
            Command::Worker(arguments) => worker::run(arguments).await?,
            Command::Status(arguments) => status::run(arguments).await?,
            Command::Operations { command } => operations::run(command).await?,
            Command::Logs(arguments) => logs::run(arguments).await?,
            Command::Workers { command } => care::workers::run(command).await?,
            Command::Purge(arguments) => care::purge::run(arguments).await?,
            Command::Store { command } => return care::store::run(command).await,
            Command::CredentialHelper { command } => credential_helper::run(command).await?,
            Command::Companion(arguments) => return companion::run(*arguments).await,
            Command::Bench(arguments) => bench::run(arguments).await?,
            Command::Bazelrc(_) | Command::Image { .. } => {}
        }
        Ok(ExitCode::SUCCESS)
    });
    // What still runs on other threads is of no interest any more.
    runtime.shutdown_background();
    outcome
}

/// The error with its causes, each told once: some messages hold their cause already. The hint comes last.
fn told(error: &anyhow::Error) -> String {
    let (mut message, mut hint) = (String::new(), String::new());
    for text in error.chain().map(ToString::to_string) {
        let (what, todo) = text.split_at(text.find(HINT).unwrap_or(text.len()));
        let what = what.trim_end();
        if !message.contains(what) {
            let colon = if message.is_empty() { "" } else { ": " };
            message.extend([colon, what]);
        }
        if hint.is_empty() {
            todo.clone_into(&mut hint);
        }
    }
    message + &hint
}

/// How hints begin in the errors of the house.
const HINT: &str = "\nHint: ";

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use mortar_model::Error;

    #[test]
    fn causes_are_told_once_and_hints_last() {
        let absent = || std::io::Error::other("no such thing");
        let inner = Error::io("reading `b`", absent()).hint("make `b`");
        let outer = Error::io("reading `a`", std::io::Error::other(inner));
        assert_eq!(
            told(&outer.into()),
            "reading `a` failed: reading `b` failed: no such thing\nHint: make `b`"
        );
        let plain = Err::<(), _>(absent()).context("no `c`").unwrap_err();
        assert_eq!(told(&plain), "no `c`: no such thing");
    }
}
