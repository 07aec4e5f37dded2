//! `mortar bench URL`: measures any server of the Remote Execution API by the same load, so that servers can be compared.
//!
//! A scenario prepares what it needs, then repeats one call from a number of workers until its time is over. The calls
//! go through the generated clients, not through `mortar-remote`: what the client costs is small, the same for every
//! server, and reported as `client_cpu_seconds`. What to measure is in `scenarios`, how in `load`, what is printed in `report`.

mod actions;
mod blobs;
mod content;
mod load;
mod progress;
mod report;
mod scenarios;
mod target;

use crate::units::{Size, Span};
use anyhow::{Context, bail, ensure};
use mortar_model::{DigestFunction, InstanceName};
use std::time::Duration;

/// Flags of `mortar bench`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = report::FIELDS)]
pub struct Args {
    /// The server: grpc://HOST:PORT or unix:PATH.
    url: String,
    /// How long each scenario runs.
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    duration: Span,
    /// Calls under way at the same time; scenarios of large blobs have at most 4.
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Connections that these calls share.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Scenarios to run, by name or the beginning of a name, such as `stream` or `batch-read`; all by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// The instance to address.
    #[arg(long, value_name = "NAME", default_value = "")]
    instance: String,
    /// The digest function: sha256 or blake3.
    #[arg(long, value_name = "NAME", default_value = "sha256")]
    digest_function: DigestFunction,
    /// The size of large blobs.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    large_size: Size,
    /// A platform property of the actions that are executed, such as OSFamily=Linux; may be repeated.
    #[arg(long = "exec-property", value_name = "NAME=VALUE", value_parser = property)]
    exec_properties: Vec<(String, String)>,
}

/// What the scenarios are told.
#[derive(Debug)]
struct Settings {
    url: String,
    duration: Duration,
    concurrency: usize,
    connections: usize,
    instance: InstanceName,
    function: DigestFunction,
    large_size: usize,
    exec_properties: Vec<(String, String)>,
}

/// Runs the scenarios and prints the report. Fails if the server goes away, refuses, or if a single call failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let chosen = scenarios::choose(&args.scenarios)?;
    let settings = settings(&args)?;
    let target = target::Target::reach(settings).await?;
    let mut results = Vec::with_capacity(chosen.len());
    let progress = progress::Progress::new(chosen.len());
    for scenario in chosen {
        let result = scenarios::measure(scenario, &target, &progress).await;
        results.push(result.with_context(|| format!("scenario `{}`", scenario.name))?);
    }
    progress.finish();
    let report = report::Report::new(&target.settings, results);
    print!("{}", if args.json { report.json()? } else { report.table() });
    match report.first_error() {
        Some((name, count, error)) => {
            bail!("scenario `{name}`: {count} calls failed, the first with: {error}")
        }
        None => Ok(()),
    }
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    ensure!(args.duration.0 > Duration::ZERO, "--duration is 0; expected some time, such as 3s");
    let large_size = usize::try_from(args.large_size.0).unwrap_or(usize::MAX);
    let sizes = content::TAIL..=1 << 30;
    ensure!(
        sizes.contains(&large_size),
        "--large-size is {}; expected {}B to 1GiB, which is held in memory",
        args.large_size,
        content::TAIL
    );
    Ok(Settings {
        url: args.url.clone(),
        duration: args.duration.0,
        concurrency: args.concurrency.into(),
        connections: args.connections.into(),
        instance: InstanceName::parse(&args.instance)?,
        function: args.digest_function,
        large_size,
        exec_properties: args.exec_properties.clone(),
    })
}

fn property(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or_else(|| format!("`{text}` is no property; expected NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
