//! `cargo xtask loadbench`: what a companion costs, in time and memory, measured with the server behind it on this machine.
//!
//! The load is `mortar bench`'s: of the same calls to the companion and to the server alone, in turn, in the same run. [`cold`]
//! is how long a companion takes until it has answered for the first time, [`Table`] what is printed: each figure beside what is
//! asked of it (PRODUCT, rows 5 and 8).

mod cold;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mortar_testkit::{
    mortar::{self, Mortar},
    process::{self, Running},
};
use serde_json::Value;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long one run of `mortar bench` may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Flags of `cargo xtask loadbench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The `mortar` to measure [default: a release build of this checkout].
    #[arg(long, value_name = "PATH")]
    mortar: Option<PathBuf>,
    /// Measure only this; may be given more than once.
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Part>,
    /// The turns of each server where two are compared, of a second each; starts of a companion.
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// Streams that are held.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    streams: u32,
    /// Blobs in the companion's directory where it is not empty.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    blobs: usize,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What the companion adds to a call.
    Calls,
    /// From its start to its first answer.
    Cold,
    /// Large reads, against a server that does nothing but frame bytes in memory.
    Large,
    /// Memory of streams that wait.
    Streams,
}

/// Measures and prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let program = match &arguments.mortar {
        Some(path) => path.canonicalize()?,
        None => crate::release::binary()?,
    };
    let directory = tempfile::tempdir()?;
    let bench = Bench { program, arguments, directory: directory.path() };
    let asked = match arguments.only.as_slice() {
        [] => Part::value_variants(),
        only => only,
    };
    for part in asked {
        eprintln!("loadbench: {part:?}");
        let table = match part {
            Part::Calls => bench.calls(),
            Part::Cold => cold::measure(&bench),
            Part::Large => bench.large(),
            Part::Streams => bench.streams(),
        };
        println!("{}", table?.0);
    }
    Ok(())
}

/// What there is to measure with.
struct Bench<'a> {
    program: PathBuf,
    arguments: &'a Arguments,
    directory: &'a Path,
}

/// Lines of Markdown.
struct Table(String);

impl Table {
    fn new(heads: &str) -> Self {
        let line =
            heads.split('|').filter(|head| !head.trim().is_empty()).map(|_| "--:|").collect::<String>();
        Self(format!("{heads}\n|{line}\n"))
    }

    fn row(&mut self, cells: &[String]) {
        let _ = writeln!(self.0, "| {} |", cells.join(" | "));
    }
}

impl Bench<'_> {
    fn start(&self, verb: &str, name: &str, flags: &[&str]) -> Result<Mortar> {
        Mortar::start(&self.program, verb, &self.directory.join(name), flags)
    }

    fn companion(&self, name: &str, upstream: &str, flags: &[&str]) -> Result<Mortar> {
        self.start("companion", name, &[&["--upstream", upstream, "--local-worker", "off"], flags].concat())
    }

    /// What `mortar bench` reports.
    fn bench(&self, flags: &[&str]) -> Result<Value> {
        let mut command = mortar::command(&self.program, "bench");
        let finished = process::run(command.args(flags).arg("--json"), LIMIT)?;
        ensure!(finished.status.success(), "mortar bench {flags:?}: {}", finished.stderr);
        serde_json::from_str(&finished.stdout).context("mortar bench printed no JSON")
    }

    /// One client, which makes a call when the one before is answered.
    fn calls(&self) -> Result<Table> {
        let server = self.start("server", "calls-server", &[])?;
        let companion = self.companion("calls-companion", &server.grpc(), &[])?;
        let scenarios = [
            ("find-missing-1", "FindMissingBlobs of one digest"),
            ("find-missing-100", "FindMissingBlobs of 100 digests"),
            ("action-get", "GetActionResult, a hit here"),
            ("action-get-new", "GetActionResult, a hit upstream"),
            ("action-get-missing", "GetActionResult, a miss"),
            ("stream-read-small", "Read of 64 KiB that are here"),
            ("stream-read-new", "Read of 64 KiB that are upstream"),
        ];
        let names = scenarios.map(|(name, _)| name).join(",");
        let report = self.bench(&[
            &companion.grpc(),
            "--against",
            &server.grpc(),
            "--fill",
            &server.grpc(),
            "--connections=1",
            "--concurrency=1",
            "--duration=1s",
            &format!("--rounds={}", self.arguments.rounds),
            "--scenarios",
            &names,
        ])?;
        let mut table = Table::new("| call | server: median ms | companion: median ms | added: ms | asked |");
        for (name, what) in scenarios {
            let rows = report["scenarios"].as_array().into_iter().flatten();
            let row = rows.into_iter().find(|row| row["name"] == name).context("a scenario is missing")?;
            let median = |figures: &Value| figures["latency_ms"]["p50"].as_f64().context("no median");
            let (here, there) = (median(row)?, median(&row["against"]["figures"])?);
            table.row(&[
                what.to_owned(),
                format!("{there:.3}"),
                format!("{here:.3}"),
                format!("{:.3}", here - there),
                "at most 0.2".to_owned(),
            ]);
        }
        Ok(table)
    }

    /// What is read is here and upstream, so that nothing else is under way.
    fn large(&self) -> Result<Table> {
        let server = self.start("server", "large-server", &[])?;
        let companion = self.companion("large-companion", &server.grpc(), &["--write-through"])?;
        let (_probe, probe) = hand_framed()?;
        let mut table = Table::new("| large reads | hand-framed: MB/s | companion: MB/s | ratio | asked |");
        for (size, connections) in [("64MiB", "1"), ("64MiB", "2"), ("1GiB", "1")] {
            let report = self.bench(&[
                &companion.grpc(),
                "--against",
                &probe,
                "--large-size",
                size,
                "--connections",
                connections,
                "--concurrency",
                connections,
                "--duration=1s",
                &format!("--rounds={}", self.arguments.rounds),
                "--scenarios=stream-read-large",
            ])?;
            let row = &report["scenarios"][0];
            let rate = |figures: &Value| figures["bytes_per_second"].as_f64().context("no rate");
            let ratio = row["against"]["ratio"]["median"].as_f64().context("no ratio")?;
            table.row(&[
                format!("{size}, {connections} at a time"),
                format!("{:.0}", rate(&row["against"]["figures"])? / 1e6),
                format!("{:.0}", rate(row)? / 1e6),
                format!("{ratio:.2}"),
                "at least 0.8".to_owned(),
            ]);
        }
        Ok(table)
    }

    fn streams(&self) -> Result<Table> {
        let mut table = Table::new(
            "| streams | open after: s | ended early | process | KiB a connection | KiB a stream | asked |",
        );
        let server = self.start("server", "streams-server", &["--start-grace", "1h"])?;
        let companion = self.companion("streams-companion", &server.grpc(), &[])?;
        let (server_pid, companion_pid) = (server.id().to_string(), companion.id().to_string());
        for (way, url, pids) in [
            ("to the server", server.grpc(), vec![("server", &server_pid)]),
            (
                "through the companion",
                companion.grpc(),
                vec![("companion", &companion_pid), ("server", &server_pid)],
            ),
        ] {
            let streams = self.arguments.streams.to_string();
            let mut flags = vec!["streams", &url, "--streams", &streams];
            flags.extend(pids.iter().flat_map(|(_, pid)| ["--pid", pid.as_str()]));
            let report = self.bench(&flags)?;
            let number = |value: &Value| value.as_f64().context("a figure is missing");
            for ((what, _), process) in pids.iter().zip(report["processes"].as_array().into_iter().flatten())
            {
                table.row(&[
                    format!("{streams} {way}"),
                    format!("{:.1}", number(&report["open_seconds"])?),
                    report["ended"].to_string(),
                    (*what).to_owned(),
                    format!("{:.1}", number(&process["bytes_per_connection"])? / 1024.0),
                    format!("{:.2}", number(&process["bytes_per_stream"])? / 1024.0),
                    "at most 8".to_owned(),
                ]);
            }
        }
        Ok(table)
    }
}

/// The example of `services` that shows what could be reached, and its URL.
fn hand_framed() -> Result<(Running, String)> {
    let program = crate::release::example("mortar-services", "hand-framed")?;
    let mut running = Running::start(Command::new(program).arg("127.0.0.1:0"))?;
    running.wait_for_output("\n", Duration::from_secs(20))?;
    let said = running.stdout()?;
    let url = said.trim().strip_prefix("ready ").context("it does not say where it is")?.to_owned();
    Ok((running, url))
}
