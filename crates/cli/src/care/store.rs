//! `mortar store …`: verifies a store, tells how it is doing, and takes over what other caches have gathered.

use super::{UNBOUNDED, bar::Bar, counted, cut_short, failed, owner};
use crate::{
    settings::{StoreFlags, default_max_size},
    units::{Size, approximately},
};
use anyhow::Context;
use clap::Subcommand;
use mortar_wire::admin::{
    Finding, GetStatsRequest, ImportReport, ImportRequest, Stats, VerifyProgress, VerifyReport,
    VerifyRequest, finding::Verdict,
};
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Read and check everything that is kept; exit code 1 tells of damage.
    Verify(Verify),
    /// Tell how much is kept, and what happened to it.
    Stats(ShowStats),
    /// Take over a directory of Bazel's --disk_cache or of bazel-remote.
    Import(Import),
}

/// Flags of `mortar store verify`.
#[derive(clap::Args)]
pub struct Verify {
    #[command(flatten)]
    store: StoreFlags,
    /// Hash all content too, besides the checksums of what is on disk.
    #[arg(long)]
    deep: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `mortar store stats`.
#[derive(clap::Args)]
pub struct ShowStats {
    #[command(flatten)]
    store: StoreFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `mortar store import`.
#[derive(clap::Args)]
pub struct Import {
    /// The directory; it is only read.
    source: PathBuf,
    #[command(flatten)]
    store: StoreFlags,
    /// The instance whose results these will be.
    #[arg(long, value_name = "NAME", default_value = "")]
    instance: String,
    /// How much may be kept, where no server runs that knows it [default: 50GiB, or four fifths of a smaller disk].
    #[arg(long, env = "MORTAR_MAX_SIZE", value_name = "SIZE")]
    max_size: Option<Size>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Does what was asked for.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify(arguments) => verify(arguments).await,
        Command::Stats(arguments) => stats(arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Import(arguments) => import(arguments).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn verify(arguments: Verify) -> anyhow::Result<ExitCode> {
    let mut owner = owner(arguments.store, None).await?;
    let asked = owner.verify(VerifyRequest { deep: arguments.deep }).await;
    let mut steps = asked.map_err(failed)?.into_inner();
    let (mut bar, mut findings) = (Bar::new("verifying"), Vec::new());
    let (bytes, report) = loop {
        let step = steps.message().await.map_err(failed)?.ok_or_else(cut_short)?;
        let VerifyProgress { done_bytes, total_bytes, findings: found, report, finished } = step;
        bar.bytes(done_bytes, total_bytes);
        if arguments.json {
            findings.extend(found.iter().map(finding_json));
        } else {
            found.iter().for_each(|finding| bar.say(&finding_line(finding)));
        }
        if finished {
            break (done_bytes, report.unwrap_or_default());
        }
    };
    bar.end();
    let is_sound = report.damaged + report.lost + report.unreadable == 0;
    match arguments.json {
        true => println!("{}", report_json(bytes, is_sound, &report, findings)),
        false => println!("{}", report_line(bytes, is_sound, &report)),
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict_name(finding: &Finding) -> &'static str {
    match finding.verdict() {
        Verdict::Unspecified => "found",
        Verdict::Damaged => "damaged",
        Verdict::Lost => "lost",
        Verdict::Unreadable => "unreadable",
        Verdict::Recovered => "recovered",
        Verdict::Removed => "removed",
    }
}

fn finding_line(finding: &Finding) -> String {
    format!("{} {}: {}", verdict_name(finding), finding.name, finding.why)
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    json!({ "verdict": verdict_name(finding), "name": finding.name, "why": finding.why })
}

fn report_line(bytes: u64, is_sound: bool, report: &VerifyReport) -> String {
    let figures = [
        (report.damaged, "damaged"),
        (report.lost, "lost"),
        (report.unreadable, "unreadable"),
        (report.recovered, "recovered"),
        (report.removed, "removed"),
    ];
    let found = figures.iter().filter(|(count, _)| *count > 0);
    let mut found: Vec<_> = found.map(|(count, what)| format!("{count} {what}")).collect();
    if report.recounted {
        found.push("accounts corrected".into());
    }
    let found = if found.is_empty() { String::new() } else { format!("; {}", found.join(", ")) };
    let (blobs, records) = (counted(report.blobs, "blob"), counted(report.records, "record"));
    let verdict = if is_sound { "sound" } else { "damage was found" };
    format!("checked {blobs} and {records} in {}: {verdict}{found}", approximately(bytes))
}

fn report_json(
    bytes: u64,
    is_sound: bool,
    report: &VerifyReport,
    findings: Vec<serde_json::Value>,
) -> serde_json::Value {
    json!({
        "sound": is_sound, "bytes": bytes, "blobs": report.blobs, "records": report.records,
        "damaged": report.damaged, "lost": report.lost, "unreadable": report.unreadable,
        "recovered": report.recovered, "removed": report.removed, "recounted": report.recounted,
        "findings": findings,
    })
}

async fn stats(arguments: ShowStats) -> anyhow::Result<()> {
    let mut owner = owner(arguments.store, None).await?;
    let stats = owner.get_stats(GetStatsRequest {}).await.map_err(failed)?.into_inner();
    if arguments.json {
        println!("{}", stats_json(&stats));
        return Ok(());
    }
    let bound = bound(&stats).map_or(String::new(), |bound| format!(" of {}", approximately(bound)));
    println!("on disk      {}{bound}", approximately(stats.bytes));
    for (name, bytes) in [
        ("segments", stats.segment_bytes),
        ("files", stats.file_bytes),
        ("made files", stats.made_bytes),
        ("index", stats.index_bytes),
    ] {
        println!("  {name:<10} {}", approximately(bytes));
    }
    for (name, count) in [
        ("blobs", stats.blobs),
        ("results", stats.action_results),
        ("values", stats.values),
        ("uploads", stats.uploads),
        ("invocations", stats.invocations),
    ] {
        println!("{name:<12} {count}");
    }
    println!("since the start of who owns it");
    for (name, count) in [
        ("evicted", stats.evictions),
        ("shed", stats.shed),
        ("damaged", stats.quarantined),
        ("lost", stats.lost),
        ("violations", stats.lease_violations),
        ("refused", stats.refused),
        ("reclaimed", stats.reclaimed),
        ("compressed", stats.compressed),
    ] {
        println!("  {name:<10} {count}");
    }
    Ok(())
}

/// What it may take; unknown where nobody serves it.
fn bound(stats: &Stats) -> Option<u64> {
    Some(stats.max_size).filter(|bound| *bound < UNBOUNDED)
}

fn stats_json(stats: &Stats) -> serde_json::Value {
    json!({
        "bytes": stats.bytes, "max_size": bound(stats), "segment_bytes": stats.segment_bytes,
        "file_bytes": stats.file_bytes, "made_bytes": stats.made_bytes, "index_bytes": stats.index_bytes,
        "blobs": stats.blobs, "action_results": stats.action_results, "values": stats.values,
        "counted": stats.counted, "uploads": stats.uploads, "invocations": stats.invocations,
        "evictions": stats.evictions, "shed": stats.shed, "quarantined": stats.quarantined,
        "lost": stats.lost, "lease_violations": stats.lease_violations, "refused": stats.refused,
        "reclaimed": stats.reclaimed, "compressed": stats.compressed,
    })
}

async fn import(arguments: Import) -> anyhow::Result<()> {
    let source = std::path::absolute(&arguments.source)
        .with_context(|| format!("`{}` is no path", arguments.source.display()))?;
    let source = source.to_str().context("the path of the source is not UTF-8")?.to_owned();
    let directory = arguments.store.directory()?;
    let max_size = arguments.max_size.map_or_else(|| default_max_size(&directory), |size| size.0);
    let mut owner = owner(arguments.store, Some(max_size)).await?;
    let asked = owner.import(ImportRequest { source, instance: arguments.instance }).await;
    let mut messages = asked.map_err(failed)?.into_inner();
    let mut bar = Bar::new("importing");
    let (progress, report) = loop {
        let now = messages.message().await.map_err(failed)?.ok_or_else(cut_short)?;
        bar.files(now.files);
        if let Some(report) = now.report.clone() {
            break (now, report);
        }
    };
    bar.end();
    let ImportReport { kind, blobs, known_blobs, action_results, known_action_results, skipped } = report;
    if arguments.json {
        let skipped: Vec<_> =
            skipped.iter().map(|left| json!({ "path": left.path, "why": left.why })).collect();
        let told = json!({
            "kind": kind, "files": progress.files, "bytes": progress.bytes, "blobs": blobs,
            "known_blobs": known_blobs, "action_results": action_results,
            "known_action_results": known_action_results, "skipped": progress.skipped, "left_out": skipped,
        });
        println!("{told}");
        return Ok(());
    }
    for left in &skipped {
        println!("left out {}: {}", left.path, left.why);
    }
    println!(
        "imported {} ({}) and {} from {kind}; {} were here, {} left out",
        counted(blobs, "blob"),
        approximately(progress.bytes),
        counted(action_results, "action result"),
        known_blobs + known_action_results,
        counted(progress.skipped, "file"),
    );
    Ok(())
}
