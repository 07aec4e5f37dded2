//! `mortar bench URL`: measures any server of the Remote Execution API by the same load, so that servers can be compared.
//!
//! A scenario prepares what it needs, then repeats one call from a number of workers until its time is over. The calls
//! go through the generated clients, not through `mortar-remote`: what the client costs is small, the same for every
//! server, and reported as `client_cpu_seconds`. What to measure is in `scenarios`, how in `load`, what is printed in `report`
//! and `rows`. `mortar bench store DIR` (module `store`) does the same without a network, `mortar bench streams URL` (module
//! `streams`) looks at memory instead of time.

mod actions;
mod blobs;
mod content;
mod cpu;
mod load;
mod machine;
mod mix;
mod plain_files;
mod progress;
mod report;
mod rows;
mod scenarios;
mod sizes;
mod store;
mod streams;
mod target;

use crate::units::{Size, Span};
use anyhow::{Context, bail, ensure};
use content::Content;
use mortar_model::{DigestFunction, InstanceName};
use std::{path::PathBuf, time::Duration};

/// Flags of `mortar bench`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = report::FIELDS, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// The server: grpc://HOST:PORT or unix:PATH.
    #[arg(required = true)]
    url: Option<String>,
    /// Another server, measured in turn with the first, to tell ratios.
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// How often each server has its turn where two are compared.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Write what is read in scenarios to this server instead, such as to the upstream of a companion that is measured.
    #[arg(long, value_name = "URL")]
    fill: Option<String>,
    /// The process id of the server, if it is on this machine, to tell its processor time.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// The process id of the server after --against.
    #[arg(long, value_name = "PID", requires = "against")]
    against_pid: Option<u32>,
    /// Connections that the calls share.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// The instance to address.
    #[arg(long, value_name = "NAME", default_value = "")]
    instance: String,
    /// A platform property of the actions that are executed, such as OSFamily=Linux; may be repeated.
    #[arg(long = "exec-property", value_name = "NAME=VALUE", value_parser = property)]
    exec_properties: Vec<(String, String)>,
    /// Measure this machine's own limits too, its disk in this directory, and tell figures as shares of them.
    #[arg(long, value_name = "DIRECTORY")]
    limits: Option<PathBuf>,
    #[command(flatten)]
    load: LoadFlags,
}

#[derive(clap::Subcommand, Debug)]
enum Other {
    /// Measure a store in this process, without a network.
    Store(Box<store::Args>),
    /// Hold many executions that wait, and tell what memory that takes.
    Streams(streams::Args),
}

/// Flags about the load, the same for servers and for stores.
#[derive(clap::Args, Debug)]
struct LoadFlags {
    /// How long each scenario runs.
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    duration: Span,
    /// Calls under way at the same time; scenarios of large blobs have at most 4.
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Scenarios to run, by name or the beginning of a name, such as `stream` or `batch-read`; all by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// The digest function: sha256 or blake3.
    #[arg(long, value_name = "NAME", default_value = "sha256")]
    digest_function: DigestFunction,
    /// The size of large blobs.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    large_size: Size,
    /// What blobs consist of.
    #[arg(long, value_name = "CONTENT", default_value = "random")]
    content: Content,
}

/// What the scenarios are told.
#[derive(Debug)]
struct Settings {
    url: String,
    /// Where that is written which is read; none if there.
    fill: Option<String>,
    duration: Duration,
    concurrency: usize,
    connections: usize,
    instance: InstanceName,
    function: DigestFunction,
    large_size: usize,
    exec_properties: Vec<(String, String)>,
    content: Content,
    rounds: usize,
    server_pid: Option<u32>,
}

/// Runs the scenarios and prints the report. Fails if the server goes away, refuses, or if a single call failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.other {
        Some(Other::Store(args)) => return store::run(*args).await,
        Some(Other::Streams(args)) => return streams::run(args).await,
        None => {}
    }
    let chosen = scenarios::choose(&args.load.scenarios)?;
    let url = args.url.clone().expect("clap demands a URL or a subcommand");
    let mut targets = vec![target::Target::reach(settings(&args, url, args.server_pid)?).await?];
    if let Some(url) = &args.against {
        targets.push(target::Target::reach(settings(&args, url.clone(), args.against_pid)?).await?);
    }
    let function = args.load.digest_function;
    let machine = match &args.limits {
        Some(directory) => Some(machine::Machine::measure(directory, function).await?),
        None => None,
    };
    let mut results = Vec::with_capacity(chosen.len());
    let progress = progress::Progress::new(chosen.len());
    for scenario in chosen {
        let result = scenarios::measure(scenario, &targets, &progress).await;
        results.push(result.with_context(|| format!("scenario `{}`", scenario.name))?);
    }
    progress.finish();
    let report = report::Report::new(&targets[0].settings, args.against, machine, results);
    print!("{}", if args.load.json { report.json()? } else { report.table() });
    told(report.scenarios())
}

/// An error if a single call failed.
fn told(rows: &[rows::Row]) -> anyhow::Result<()> {
    match rows::first_error(rows) {
        Some((name, count, error)) => {
            bail!("scenario `{name}`: {count} calls failed, the first with: {error}")
        }
        None => Ok(()),
    }
}

fn settings(args: &Args, url: String, server_pid: Option<u32>) -> anyhow::Result<Settings> {
    let load = &args.load;
    Ok(Settings {
        url,
        fill: args.fill.clone(),
        duration: load.duration()?,
        concurrency: load.concurrency.into(),
        connections: args.connections.into(),
        instance: InstanceName::parse(&args.instance)?,
        function: load.digest_function,
        large_size: load.large_size()?,
        exec_properties: args.exec_properties.clone(),
        content: load.content,
        rounds: args.rounds.into(),
        server_pid,
    })
}

impl LoadFlags {
    fn duration(&self) -> anyhow::Result<Duration> {
        ensure!(self.duration.0 > Duration::ZERO, "--duration is 0; expected some time, such as 3s");
        Ok(self.duration.0)
    }

    fn large_size(&self) -> anyhow::Result<usize> {
        let large_size = usize::try_from(self.large_size.0).unwrap_or(usize::MAX);
        let sizes = content::TAIL..=1 << 30;
        ensure!(
            sizes.contains(&large_size),
            "--large-size is {}; expected {}B to 1GiB, which is held in memory",
            self.large_size,
            content::TAIL
        );
        Ok(large_size)
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or_else(|| format!("`{text}` is no property; expected NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
