//! `cargo xtask fuzz NAME`: runs a fuzz target of `mortar-fuzz` on any compiler, by mutation alone.
//!
//! What it learns goes into `fuzz/corpus/NAME`; an input that breaks a property into `fuzz/artifacts/NAME`.

use anyhow::{Context, bail};
use mortar_fuzz::{ALL, Campaign};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

/// Inputs between two looks at the clock.
const BATCH: usize = 1000;

/// Flags of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The target; all of them in turn where it is left out.
    name: Option<String>,
    /// How long each target is run.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// Makes a run repeatable; random by default, and printed.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the targets; the first finding ends it.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_meant = |name: &str| arguments.name.as_deref().is_none_or(|meant| meant == name);
    let targets: Vec<_> = ALL.iter().filter(|target| is_meant(target.name)).collect();
    if targets.is_empty() {
        let names: Vec<_> = ALL.iter().map(|target| target.name).collect();
        let name = arguments.name.as_deref().unwrap_or_default();
        bail!("`{name}` is no fuzz target; expected one of {}", names.join(", "));
    }
    let time = Duration::try_from_secs_f64(arguments.minutes * 60.0).context("--minutes")?;
    let seed = arguments.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    targets.into_iter().try_for_each(|target| fuzz(*target, time, seed))
}

fn fuzz(target: mortar_fuzz::Target, time: Duration, seed: u64) -> anyhow::Result<()> {
    let name = target.name;
    let corpus = crate::root().join("fuzz/corpus").join(name);
    let started = Instant::now();
    println!("{name}: seed {seed}");
    let mut found = None;
    let mut campaign = match Campaign::new(target, &corpus, seed)? {
        Ok(campaign) => Some(campaign),
        Err(finding) => {
            found = Some(finding);
            None
        }
    };
    while let Some(campaign) = campaign.as_mut().filter(|_| found.is_none() && started.elapsed() < time) {
        found = (0..BATCH).find_map(|_| campaign.step().err());
    }
    if let Some(campaign) = &campaign {
        let (executions, outcomes) = (campaign.executions(), campaign.outcomes());
        let added = campaign.keep(&corpus)?;
        println!("{name}: {executions} executions, {outcomes} outcomes, {added} inputs added to the corpus");
    }
    match found {
        None => Ok(()),
        Some(finding) => {
            let directory = crate::root().join("fuzz/artifacts").join(name);
            std::fs::create_dir_all(&directory)?;
            let path = directory.join(format!("found-{seed}"));
            std::fs::write(&path, &finding.input)?;
            bail!("{name}: {}\nthe input is in `{}`", finding.message, path.display());
        }
    }
}
