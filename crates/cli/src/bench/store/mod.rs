//! `mortar bench store DIR`: a store in this process, driven through the ports, without a network. What a server adds
//! to it is what `mortar bench URL` measures.
//!
//! - `engine`: what is measured · `loads`: the calls · `scenarios`: their list · `pages`: the page cache
//! - `fill`: many small blobs · `opening`: what it takes to open a store that has them, in a process of its own
//! - `endurance`: builds on a store that is full · `report`: what is printed

mod endurance;
mod engine;
mod fill;
mod loads;
mod opening;
mod pages;
mod report;
mod scenarios;

use super::{LoadFlags, machine::Machine, progress::Progress, told};
use crate::units::{Size, Span};
use anyhow::{bail, ensure};
use engine::Engine;
use report::Report;
use std::path::PathBuf;

/// Flags of `mortar bench store`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = report::FIELDS)]
pub(super) struct Args {
    /// A directory of the bench's own: a new or empty one, or one that an earlier bench has made.
    directory: PathBuf,
    /// The store that is measured.
    #[arg(long, value_name = "ENGINE", default_value = "disk")]
    engine: Engine,
    /// What the store may take on disk.
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    max_size: Size,
    /// Fill the store with this many blobs, then measure how it opens; other scenarios run if they are named.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    blobs: Option<u64>,
    /// The size of these blobs.
    #[arg(long, value_name = "SIZE", default_value = "4KiB", requires = "blobs")]
    size: Size,
    /// Drop the store's files from the page cache before they are read.
    #[arg(long)]
    cold: bool,
    /// Instead of the scenarios: write this percentage of the store's size, then let builds run for the duration.
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["blobs", "cold", "scenarios"])]
    fill: Option<u16>,
    /// A build that made no call for so long has ended: what it was promised may go.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    invocation_grace: Span,
    /// Measure this machine's own limits too, and tell figures as shares of them.
    #[arg(long)]
    limits: bool,
    /// Opens the store that was filled, measures that and nothing else.
    #[arg(long, hide = true, requires = "blobs")]
    probe: bool,
    #[command(flatten)]
    load: LoadFlags,
}

/// Measures and prints. Fails if a call failed, or if the store broke a promise.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    ensure!(
        args.size.0 >= fill::SMALLEST && args.size.0 <= 1 << 30,
        "--size is {}; expected {}B to 1GiB",
        args.size,
        fill::SMALLEST
    );
    let (duration, _) = (args.load.duration()?, args.load.large_size()?);
    let chosen = scenarios::choose(&args.load.scenarios, args.blobs.is_some())?;
    let place = engine::Place::claim(&args.directory, args.engine, args.max_size.0)?
        .with_grace(args.invocation_grace.0);
    if let (true, Some(blobs)) = (args.probe, args.blobs) {
        let opening = opening::measure(&place, &fill::Numbered::of(&args, blobs), duration).await?;
        println!("{}", serde_json::to_string(&opening)?);
        return Ok(());
    }
    let mut report = Report::new(&args);
    if args.limits {
        report.machine = Some(Machine::measure(&args.directory, args.load.digest_function).await?);
    }
    let progress = Progress::new(chosen.len());
    if let Some(blobs) = args.blobs {
        let numbered = fill::Numbered::of(&args, blobs);
        report.filled = Some(fill::fill(&place, &numbered, &progress).await?);
        report.opening = Some(opening::in_another_process(&args, blobs).await?);
    }
    match args.fill {
        Some(percent) => {
            report.endurance =
                Some(endurance::run(&place, &args, percent.into(), duration, &progress).await?);
        }
        None => scenarios::run(&chosen, &place, &args, &progress, &mut report).await?,
    }
    progress.finish();
    print!("{}", if args.load.json { report.json()? } else { report.table() });
    if let Some(broken) = report.endurance.as_ref().and_then(endurance::Endurance::broken) {
        bail!("{broken}");
    }
    told(&report.scenarios)
}
