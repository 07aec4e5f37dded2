//! What stands between Bazel and the other end: a `mortar up` of its own, a slow network before it, and maybe a companion
//! on Bazel's side of that.

use super::report::Sample;
use anyhow::{Result, ensure};
use mortar_testkit::{
    bazel::{Bazel, Processes},
    mortar::{self, Mortar},
    network::{Counts, Link, Relay},
    process::{self, wait_until},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a companion may take to bring everything upstream.
const FLUSH_LIMIT: Duration = Duration::from_secs(300);
/// How long nothing must pass until a companion is taken to have finished, beyond two round trips.
const SILENCE: Duration = Duration::from_millis(300);

/// A server and the way to it.
pub(super) struct Site {
    program: PathBuf,
    companion: Option<Companion>,
    companions_so_far: u32,
    relay: Relay,
    /// What had passed when it was counted last.
    counted: Counts,
    server: Mortar,
    directory: tempfile::TempDir,
}

struct Companion {
    mortar: Mortar,
    directory: PathBuf,
}

/// One build to be measured.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The flag that names the server, such as `--remote_cache`; none for a build without one.
    pub(super) server_flag: Option<&'static str>,
    pub(super) flags: Vec<String>,
    pub(super) expected: Expected,
}

/// What every spawn of a build must have been, for the row to say what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Local,
    Remote,
    Cached,
}

impl Expected {
    fn holds(self, processes: &Processes) -> bool {
        let count = match self {
            Self::Local => processes.local(),
            Self::Remote => processes.remote(),
            Self::Cached => processes.cached(),
        };
        count == processes.spawns() && count > 0
    }
}

impl Site {
    /// A server that has nothing.
    pub(super) fn start(program: &Path, link: &Link) -> Result<Site> {
        let directory = tempfile::tempdir()?;
        let server = Mortar::up(program, &directory.path().join("server"))?;
        let relay = Relay::start(server.address(), link.clone())?;
        Ok(Site {
            program: program.to_owned(),
            companion: None,
            companions_so_far: 0,
            relay,
            counted: Counts::default(),
            server,
            directory,
        })
    }

    /// Makes the network another, for connections to come.
    pub(super) fn set_link(&self, link: &Link) {
        self.relay.set(link.clone());
    }

    /// From now on Bazel talks to a companion that has nothing, in place of whatever it talked to before.
    pub(super) fn new_companion(&mut self) -> Result<()> {
        self.companion = None;
        self.companions_so_far += 1;
        let directory = self.directory.path().join(format!("companion-{}", self.companions_so_far));
        let upstream = format!("grpc://{}", self.relay.address());
        let mortar = Mortar::start(&self.program, "companion", &directory, &["--upstream", &upstream])?;
        self.companion = Some(Companion { mortar, directory });
        Ok(())
    }

    /// From now on Bazel talks to the server, over the network.
    pub(super) fn no_companion(&mut self) {
        self.companion = None;
    }

    /// A build that fills the server, past the network, and is not measured.
    pub(super) fn fill(&self, bazel: &Bazel, way: &Way) -> Result<()> {
        bazel.clean()?;
        self.build(bazel, way, &self.server.grpc()).map(drop)
    }

    /// Cleans, builds everything, and tells what that took, and what passed on the network until all was silent.
    pub(super) fn measure(&mut self, bazel: &Bazel, way: &Way) -> Result<Sample> {
        bazel.clean()?;
        let url = match &self.companion {
            Some(companion) => companion.mortar.grpc(),
            None => format!("grpc://{}", self.relay.address()),
        };
        let began = Instant::now();
        let processes = self.build(bazel, way, &url)?;
        let took = began.elapsed();
        let flush = self.companion.as_ref().map(|companion| self.flush(companion)).transpose()?;
        let passed = self.passed()?;
        Ok(Sample {
            took,
            flush,
            calls: passed.calls,
            bytes_up: passed.bytes_up,
            bytes_down: passed.bytes_down,
            spawns: processes.spawns(),
        })
    }

    fn build(&self, bazel: &Bazel, way: &Way, url: &str) -> Result<Processes> {
        let server = way.server_flag.map(|flag| format!("{flag}={url}"));
        let flags: Vec<&str> =
            server.as_deref().into_iter().chain(way.flags.iter().map(String::as_str)).collect();
        let build = bazel.build(&flags, &["//..."])?;
        let processes = build.success()?.clone();
        let expected = way.expected;
        ensure!(expected.holds(&processes), "not every spawn was {expected:?} ({flags:?}): {processes:?}");
        Ok(processes)
    }

    fn flush(&self, companion: &Companion) -> Result<Duration> {
        let began = Instant::now();
        let mut command = mortar::command(&self.program, "companion");
        let finished =
            process::run(command.arg("flush").arg("--dir").arg(&companion.directory), FLUSH_LIMIT)?;
        ensure!(finished.status.success(), "flush: {}\n{}", finished.status, finished.stderr);
        Ok(began.elapsed())
    }

    /// What has passed since the last time, once nothing passes any more.
    fn passed(&mut self) -> Result<Counts> {
        let silence = SILENCE + 4 * self.relay.link().latency;
        let (mut last, mut since) = (self.relay.counts(), Instant::now());
        let silent = || {
            let now = self.relay.counts();
            if (now.bytes_up, now.bytes_down) != (last.bytes_up, last.bytes_down) {
                (last, since) = (now, Instant::now());
            }
            Ok((since.elapsed() >= silence).then_some(now))
        };
        let now = wait_until("silence on the network", FLUSH_LIMIT, silent)?;
        let before = std::mem::replace(&mut self.counted, now);
        Ok(Counts {
            calls: now.calls - before.calls,
            bytes_up: now.bytes_up - before.bytes_up,
            bytes_down: now.bytes_down - before.bytes_down,
            ..Counts::default()
        })
    }
}
