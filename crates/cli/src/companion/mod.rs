//! `mortar companion`: the daemon between Bazel and its servers, and how it is started, asked and ended.

mod access;
mod ask;
mod install;
mod local;
mod run;
mod show;

use anyhow::Context;
use mortar_companion::life::Home;
use std::{path::PathBuf, process::ExitCode};

/// Flags of `mortar companion`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Box<run::RunFlags>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the companion, which is also what `mortar companion` alone does.
    Run(Box<run::RunFlags>),
    /// Have the Bazel of a workspace start the companion and use it.
    Install(install::Arguments),
    /// Tell how the companion is doing: its cache, what it owes, what was refused.
    Status(ask::StatusArguments),
    /// Wait until all that was written is upstream.
    Flush(ask::FlushArguments),
    /// End the companion. What it still owes is uploaded when it runs again.
    Stop(ask::StopArguments),
}

/// Runs the companion, or asks the one that runs.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command.unwrap_or(Command::Run(arguments.run)) {
        Command::Run(arguments) => run::run(*arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Install(arguments) => install::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Status(arguments) => ask::status(arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Flush(arguments) => ask::flush(arguments).await,
        Command::Stop(arguments) => ask::stop(arguments).await.map(|()| ExitCode::SUCCESS),
    }
}

/// Which companion.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct HomeFlags {
    /// Where it keeps everything; each directory has a companion of its own [default: `mortar/companion` in the user's
    /// cache directory].
    #[arg(long, env = "MORTAR_COMPANION_DIR", value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl HomeFlags {
    fn home(&self) -> anyhow::Result<Home> {
        if let Some(directory) = &self.dir {
            return Ok(Home::new(directory, None));
        }
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set: name a directory with --dir")?;
        let socket = set("XDG_RUNTIME_DIR").map(|runtime| runtime.join("mortar/companion.sock"));
        Ok(Home::new(&cache.join("mortar/companion"), socket))
    }
}
