//! Bazel 4.2.3 through a companion whose server falls into trouble in the midst of the build: it is swallowed by a black
//! hole, breaks connections, crawls, is full, or does not know us any more. The build ends well and its outputs are
//! right; one line tells that the trouble begins and one that it is over; then all that was built is upstream.
//!
//! The trouble begins at a call of the build: a gate between network and server knows each of them. A server of one's own for
//! each build, and one Bazel for all.

use crate::{
    MORTAR,
    companion::{ask, status, wait_for_local_worker},
    gate::Gate,
};
use anyhow::{Context, Result, ensure};
use mortar_testkit::{
    bazel::{Bazel, Outputs, Project},
    mortar::Mortar,
    network::{Link, Relay, State},
    process,
};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(120);
/// What the disk of a server holds that is to be full.
const DISK: u64 = 192 << 20;

/// What befalls the server or the way to it, until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing arrives, and nobody says so.
    BlackHole,
    /// Connections are reset, new ones too.
    Reset,
    /// Everything takes seconds.
    Slow,
    /// There is no room on the server's disk.
    Full,
    /// It turns everybody away.
    Stranger,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before Bazel starts.
    Start,
    /// At the first look-up.
    LookUp,
    /// At the first upload, or the first execution.
    Work,
    /// At the first download: everything is upstream already.
    Download,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Cache,
    Execution,
}

use Phase::{Download, LookUp, Start, Work};
use Trouble::{BlackHole, Full, Reset, Slow, Stranger};
use Use::{Cache, Execution};

/// Each trouble, each phase and each use at least once, and those that differ most.
const USUAL: &[(Trouble, Phase, Use)] = &[
    (BlackHole, LookUp, Cache),
    (BlackHole, Work, Execution),
    (Reset, Work, Cache),
    (Reset, Download, Execution),
    (Slow, Download, Cache),
    (Slow, Start, Execution),
    (Full, Work, Cache),
    (Full, LookUp, Execution),
    (Stranger, Start, Execution),
    (Stranger, Work, Cache),
];

/// `MORTAR_TROUBLES`: with nothing in it, every trouble in every phase of every use; else those of them whose names it
/// begins, such as `Reset, Work`.
fn asked() -> Vec<(Trouble, Phase, Use)> {
    let Ok(asked) = std::env::var("MORTAR_TROUBLES") else { return USUAL.to_vec() };
    let mut all = Vec::new();
    for trouble in [BlackHole, Reset, Slow, Full, Stranger] {
        for phase in [Start, LookUp, Work, Download] {
            all.extend([Cache, Execution].map(|used| (trouble, phase, used)));
        }
    }
    all.retain(|(trouble, phase, used)| format!("{trouble:?}, {phase:?}, {used:?}").starts_with(&asked));
    all
}

#[test]
fn builds_survive_the_troubles_of_their_server() -> Result<()> {
    let mut bazel = Bazel::v4(&Project::trouble()?)?;
    bazel.build(&[], &["//..."])?.success()?;
    let expected = bazel.outputs()?;
    let mut failed = Vec::new();
    for (trouble, phase, used) in asked() {
        let begun = Instant::now();
        let survived = survives(&mut bazel, &expected, trouble, phase, used);
        println!("{trouble:?}, {phase:?}, {used:?}: {:.1} s", begun.elapsed().as_secs_f64());
        failed.extend(survived.err().map(|error| format!("{trouble:?}, {phase:?}, {used:?}: {error:?}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

fn survives(bazel: &mut Bazel, expected: &Outputs, trouble: Trouble, phase: Phase, used: Use) -> Result<()> {
    let site = Site::start(trouble)?;
    let flag = match used {
        Cache => "--remote_cache",
        Execution => "--remote_executor",
    };
    let mut build = |server: &str| -> Result<_> {
        bazel.clean()?;
        bazel.set_flags(&[&format!("{flag}={server}")]);
        let build = bazel.build(&[], &["//..."])?;
        let processes = build.success()?.clone();
        let differences = expected.differences(&bazel.outputs()?);
        ensure!(differences.is_empty(), "wrong outputs: {differences:?}");
        Ok((processes, build.finished.stderr))
    };
    if phase == Download {
        build(&site.server.grpc()).context("filling the server")?;
    }
    let troubles = site.troubles(trouble);
    let methods: &[&str] = match (phase, used) {
        (Start, _) => &[],
        (LookUp, _) => &["GetActionResult"],
        (Work, Cache) => &["Write", "BatchUpdateBlobs"],
        (Work, Execution) => &["Execute"],
        (Download, _) => &["Read"],
    };
    match phase {
        Start => troubles(),
        LookUp | Work | Download => site.gate.at_first(methods, troubles),
    }
    let told = build(&site.companion.grpc()).map(|(_, told)| told).with_context(|| site.log())?;
    ensure!(!site.gate.awaits(), "no call of {methods:?} came");
    ensure!(!told.contains("WARNING"), "Bazel is not calm:\n{told}");
    let is_met = site.is_met(trouble)?;
    // Who only reads does not meet a full disk; nor who is done before it is one.
    ensure!(is_met || (trouble == Full && matches!(phase, Work | Download)), "nobody met the trouble");
    if !is_met {
        println!("{trouble:?}, {phase:?}, {used:?}: all was done in spite of it");
    }
    site.wait_for_lines(usize::from(is_met))?;

    site.end_trouble(trouble)?;
    site.wait_for_lines(2 * usize::from(is_met))?;
    ask(&site.near(), &["flush"]).with_context(|| site.log())?;
    site.wait_for_lines(2 * usize::from(is_met))?;
    let (processes, told) = build(&site.server.grpc()).context("from the server")?;
    let is_all = processes.cached() == processes.spawns();
    let status = ask(&site.near(), &["status"])?;
    ensure!(is_all, "not all is upstream: {processes:?}\n{told}\n{status}\n{}", site.log());
    Ok(())
}

/// A server, a gate before it, a network before that, and the companion.
struct Site {
    companion: Mortar,
    network: Arc<Relay>,
    gate: Gate,
    server: Mortar,
    /// Whether the trouble is over.
    ended: Arc<AtomicBool>,
    directory: tempfile::TempDir,
}

impl Site {
    fn start(trouble: Trouble) -> Result<Site> {
        let directory = tempfile::tempdir()?;
        let (data, near) = (directory.path().join("server"), directory.path().join("near"));
        let server = match trouble {
            Full => on_a_disk_of_its_own(&data)?,
            BlackHole | Reset | Slow | Stranger => Mortar::up(MORTAR, &data)?,
        };
        let gate = Gate::before(&server.http())?;
        let network = Arc::new(Relay::start(gate.address(), Link::default())?);
        let upstream = format!("grpc://{}", network.address());
        let flags = ["--upstream", &upstream, "--local-worker", "fallback"];
        let companion = Mortar::start(MORTAR, "companion", &near, &flags)?;
        let site = Site { companion, network, gate, server, ended: Arc::default(), directory };
        wait_for_local_worker(&site.near())?;
        Ok(site)
    }

    fn near(&self) -> PathBuf {
        self.directory.path().join("near")
    }

    /// What makes the trouble, from wherever it is called.
    fn troubles(&self, trouble: Trouble) -> Box<dyn FnOnce() + Send> {
        let (network, shut) = (self.network.clone(), self.gate.shutter());
        let (filler, ended) = (self.filler(), self.ended.clone());
        Box::new(move || match trouble {
            BlackHole => network.change(|link| link.state = State::BlackHole),
            Reset => network.change(|link| link.state = State::Down),
            Slow => network.change(|link| link.latency = Duration::from_secs(3)),
            Full => Filler::start(filler, ended).expect("a disk can be filled"),
            Stranger => shut(true),
        })
    }

    fn end_trouble(&self, trouble: Trouble) -> Result<()> {
        match trouble {
            BlackHole | Reset | Slow => self.network.set(Link::default()),
            Full => {
                self.ended.store(true, Ordering::SeqCst);
                let gone = || Ok((!self.filler().exists()).then_some(()));
                process::wait_until("room on the disk", LIMIT, gone)?;
            }
            Stranger => self.gate.shut(false),
        }
        Ok(())
    }

    /// The file that fills the server's disk, as it is seen from here.
    fn filler(&self) -> PathBuf {
        let inside = self.directory.path().join("server/filler");
        let inside = inside.strip_prefix("/").expect("temporary directories have absolute paths");
        Path::new("/proc").join(self.server.id().to_string()).join("root").join(inside)
    }

    /// Whether the companion meets the trouble: it says so, unless all that it had to do was done in spite of it.
    fn is_met(&self, trouble: Trouble) -> Result<bool> {
        process::wait_until("a line of the companion, or nothing that it owes", LIMIT, || {
            let owes = status(&self.near())?["upstreams"][0]["owed"].clone();
            // Told first, then paid.
            if self.companion.log()?.lines().any(is_talk) {
                return Ok(Some(true));
            }
            let owes_nothing = owes["blobs"] == 0 && owes["results"] == 0;
            Ok((trouble == Full && owes_nothing).then_some(false))
        })
        .with_context(|| self.log())
    }

    /// Waits until the companion has said so many lines of trouble; more are an error.
    fn wait_for_lines(&self, count: usize) -> Result<()> {
        let lines = process::wait_until(&format!("{count} lines of the companion"), LIMIT, || {
            let log = self.companion.log()?;
            let lines: Vec<_> = log.lines().filter(|line| is_talk(line)).map(str::to_owned).collect();
            Ok((lines.len() >= count).then_some(lines))
        });
        let lines = lines.with_context(|| self.log())?;
        ensure!(lines.len() == count, "{} lines in place of {count}:\n{}", lines.len(), lines.join("\n"));
        Ok(())
    }

    fn log(&self) -> String {
        let [near, far] = [&self.companion, &self.server].map(|one| one.log().unwrap_or_default());
        format!("the companion said:\n{near}\nthe server said:\n{far}")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Its disk would be kept full for others.
        self.ended.store(true, Ordering::SeqCst);
    }
}

fn is_talk(line: &str) -> bool {
    matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR"))
}

/// A `mortar up` whose data are on a disk of [`DISK`] bytes that goes with it.
fn on_a_disk_of_its_own(data: &Path) -> Result<Mortar> {
    fs::create_dir(data)?;
    let map = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
    let script = format!(
        "#!/bin/sh\nexec unshare --mount {map} sh -c 'mount -t tmpfs -o size={DISK} small {data} && exec {MORTAR} \"$@\"' sh \"$@\"\n",
        data = data.display()
    );
    let program = data.with_extension("sh");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Mortar::up(&program, data)
}

/// A file that takes what room there is on a disk, and all that others give back, until it is dropped.
struct Filler {
    path: PathBuf,
    file: fs::File,
}

impl Filler {
    /// Fills the disk; then goes on in the background, until `ended`.
    fn start(path: PathBuf, ended: Arc<AtomicBool>) -> Result<()> {
        let mut filler = Filler { file: fs::File::create(&path)?, path };
        filler.fill()?;
        thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) && filler.fill().is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        Ok(())
    }

    /// Writes until there is no room.
    fn fill(&mut self) -> io::Result<()> {
        let chunk = [0; 1 << 16];
        let mut piece = &chunk[..];
        loop {
            match self.file.write(piece) {
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
                Err(_) if piece.len() > 1 => piece = &chunk[..piece.len() / 2],
                Err(_) => return Ok(()),
            }
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // It goes with the disk.
        fs::remove_file(&self.path).ok();
    }
}
