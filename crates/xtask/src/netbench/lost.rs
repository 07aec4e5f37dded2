//! The scenario `lost`: what a build costs whose server is lost in its midst, against the same build without one, and how
//! soon the companion uses a server again that is back.

use super::{
    Sizes,
    report::{Between, Kind, Sample, Table},
    say, workload,
};
use anyhow::{Context, Result, ensure};
use mortar_testkit::{
    bazel::{Bazel, Build},
    mortar::{self, Mortar},
    network::{Link, Relay, State},
    process::{self, wait_until},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How many actions the figure is about, and what each of them does.
pub(super) const LOST: u32 = 100;
const ACTION: &str = "sleep 0.2; echo made > $@";
const LIMIT: Duration = Duration::from_secs(60);
/// Of the build without a server.
const ALLOWED: f64 = 1.05;

/// Measures it with as many jobs as there are processors: as many actions run at a time here as with a server.
pub(super) fn measure(program: &Path, sizes: Sizes) -> Result<Table> {
    let jobs = format!("--jobs={}", std::thread::available_parallelism()?);
    let about = "Each takes 0.2 s. When a third of them is made, all that is sent to the server is swallowed, or all connections \
                 are reset, until the build has ended.";
    let mut table = Table::new(format!("lost: {} genrules", sizes.lost), about);
    let bench = Bench { program, bazel: workload::commands(sizes.lost, ACTION)?, jobs, actions: sizes.lost };
    bench.build("", true)?;
    let local = bench.build("", true)?;
    let begun = local.seconds();
    table.add("none", Kind::Local, Between::Nothing, local);
    for (state, name) in [(State::BlackHole, "swallowed"), (State::Down, "reset")] {
        for kind in [Kind::CacheOnly, Kind::Cold] {
            let (sample, back) = bench.lose(state, kind)?;
            let what = format!("{name}, {}", kind.name());
            say(&format!("lost, {what}: {:.2} s, used again after {back:.2} s", sample.seconds()));
            if sizes.lost >= LOST {
                let beyond = sample.seconds() - ALLOWED * begun;
                table.figure(
                    &format!("{what}: seconds beyond 1.05 times the build without a server"),
                    2.0,
                    beyond,
                );
                table.figure(&format!("{what}: seconds until it is used again"), 10.0, back);
            }
            table.add(name, kind, Between::New, sample);
        }
    }
    Ok(table)
}

struct Bench<'a> {
    program: &'a Path,
    bazel: Bazel,
    jobs: String,
    actions: u32,
}

/// A server, the network before it, and a companion on this side.
struct Site {
    companion: Mortar,
    near: PathBuf,
    relay: Relay,
    _server: Mortar,
    _directory: tempfile::TempDir,
}

impl Bench<'_> {
    /// Without anybody's loss.
    fn build(&self, server: &str, runs_here: bool) -> Result<Sample> {
        self.bazel.clean()?;
        let began = Instant::now();
        let build = Build::of(self.start(server, runs_here)?)?;
        sample(began, &build)
    }

    fn start(&self, server: &str, runs_here: bool) -> Result<process::Running> {
        let strategy = if runs_here { "--spawn_strategy=local" } else { "" };
        let flags: Vec<&str> =
            [&self.jobs, server, strategy].into_iter().filter(|flag| !flag.is_empty()).collect();
        self.bazel.start("build", &flags, &["//..."])
    }

    /// A build whose server is lost when a third is made, and how many seconds after its return it is used again.
    fn lose(&self, state: State, kind: Kind) -> Result<(Sample, f64)> {
        let mut site = Site::start(self.program)?;
        let (flag, runs_here) = match kind {
            Kind::CacheOnly => ("--remote_cache", true),
            _ => ("--remote_executor", false),
        };
        self.bazel.clean()?;
        let began = Instant::now();
        let running = self.start(&format!("{flag}={}", site.companion.grpc()), runs_here)?;
        let third = self.actions / 3;
        wait_until("a third of the outputs", LIMIT, || {
            let made = (0..self.actions).filter(|number| self.bazel.has_output(&format!("{number}.txt")));
            Ok((made.count() >= third as usize).then_some(()))
        })?;
        site.relay.change(|link| link.state = state);
        let build = Build::of(running)?;
        let sample = sample(began, &build)?;
        let told = site.told()?;
        ensure!(told == 1, "{told} lines tell of the loss");
        site.relay.set(Link::default());
        let returned = Instant::now();
        site.companion.wait_for_log("is used again", LIMIT)?;
        let back = returned.elapsed().as_secs_f64();
        let began = Instant::now();
        site.ask(self.program, &["flush"])?;
        let sample = Sample { flush: Some(began.elapsed()), ..sample };
        let told = site.told()?;
        ensure!(told == 2, "{told} lines tell of the loss and of its end");
        Ok((sample, back))
    }
}

fn sample(began: Instant, build: &Build) -> Result<Sample> {
    let took = began.elapsed();
    let spawns = build.success()?.spawns();
    Ok(Sample { took, flush: None, calls: 0, bytes_up: 0, bytes_down: 0, spawns })
}

impl Site {
    fn start(program: &Path) -> Result<Site> {
        let directory = tempfile::tempdir()?;
        let near = directory.path().join("near");
        let server = Mortar::up(program, &directory.path().join("server"))?;
        let relay = Relay::start(server.address(), Link::default())?;
        let upstream = format!("grpc://{}", relay.address());
        let companion = Mortar::start(program, "companion", &near, &["--upstream", &upstream])?;
        let site = Site { companion, near, relay, _server: server, _directory: directory };
        // The worker is opened while the companion answers already.
        wait_until("the local worker is there", LIMIT, || {
            let status: serde_json::Value = serde_json::from_str(&site.ask(program, &["status", "--json"])?)?;
            Ok((!status["local_worker"].is_null()).then_some(()))
        })?;
        Ok(site)
    }

    fn ask(&self, program: &Path, verb: &[&str]) -> Result<String> {
        let mut command = mortar::command(program, "companion");
        let finished = process::run(command.args(verb).arg("--dir").arg(&self.near), LIMIT)?;
        ensure!(finished.status.success(), "{verb:?}: {}", finished.stderr);
        Ok(finished.stdout)
    }

    /// Lines of trouble that the companion has said.
    fn told(&self) -> Result<usize> {
        let log = self.companion.log().context("the log of the companion")?;
        Ok(log.lines().filter(|line| line.contains(" WARN ")).count())
    }
}
