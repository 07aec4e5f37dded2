//! What a run costs that does nothing, beside what the kernel asks for the same process in new namespaces with nothing
//! around it. Both take turns, so that what else the machine does falls on both alike; the medians are compared.
//!
//! The bare process is cloned into mount, pid and user namespaces of its own by small processes of one thread, and
//! runs `/bin/true` there. Of the sandbox, only what [`Sandbox::run`] does is timed; its directories are made before.

// The bare process is cloned by hand.
#![allow(unsafe_code)]

use mortar_sandbox::{Config, Sandbox, Spec};
use std::{
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

const ROUNDS: usize = 5;
const RUNS: usize = 1600;

fn main() {
    mortar_sandbox::init_if_asked();
    if let Some(count) = env::args().nth(1).and_then(|count| count.parse().ok()) {
        return bare(count);
    }
    // Removed at the end: a file system that is just about to forget many files is slow to make new ones.
    let directory = tempfile::tempdir().expect("a directory can be made");
    for (in_flight, runs) in [(1, RUNS / 4), (8, RUNS)] {
        let (mut baseline, mut sandbox) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let places = directory.path().join(format!("{in_flight}-{round}"));
            let places = stage(&places, in_flight);
            baseline.push(measure(|| bare_processes(in_flight, runs), runs));
            sandbox.push(measure(|| sandboxes(&places, runs), runs));
        }
        let (baseline, sandbox) = (median(baseline), median(sandbox));
        println!(
            "{in_flight} in flight: bare {:.0}/s, {:.2} ms of CPU each; sandbox {:.0}/s, {:.2} ms; \
             ratio of the rates {:.2}, CPU beyond the bare process {:.2} ms",
            baseline.0,
            baseline.1,
            sandbox.0,
            sandbox.1,
            sandbox.0 / baseline.0,
            sandbox.1 - baseline.1
        );
    }
}

/// Rate, and milliseconds of CPU for each, of what `work` does `runs` times in the seconds that it returns.
fn measure(work: impl FnOnce() -> f64, runs: usize) -> (f64, f64) {
    let before = cpu();
    let seconds = work();
    (runs as f64 / seconds, (cpu() - before) / runs as f64 * 1e3)
}

fn median(mut of: Vec<(f64, f64)>) -> (f64, f64) {
    of.sort_by(|a, b| a.0.total_cmp(&b.0));
    of[of.len() / 2]
}

/// Seconds of CPU that this process and those it waited for have used.
fn cpu() -> f64 {
    let mut sum = 0.0;
    for who in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN] {
        // SAFETY: all zero is a valid `rusage`, which the call fills.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &mut usage);
            usage
        };
        for time in [usage.ru_utime, usage.ru_stime] {
            sum += time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        }
    }
    sum
}

/// Has so many processes clone and reap; seconds from when all were ready.
fn bare_processes(in_flight: usize, runs: usize) -> f64 {
    let start = || {
        let mut process = Command::new("/proc/self/exe")
            .arg((runs / in_flight).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this programme can be started again");
        let out = process.stdout.as_mut().expect("it is piped");
        out.read_exact(&mut [0]).expect("it gets ready");
        process
    };
    let mut processes: Vec<_> = (0..in_flight).map(|_| start()).collect();
    let started = Instant::now();
    for process in &mut processes {
        drop(process.stdin.take());
    }
    for process in &mut processes {
        assert!(process.wait().expect("it can be waited for").success());
    }
    started.elapsed().as_secs_f64()
}

/// Clones and reaps, one after another.
fn bare(count: usize) {
    std::io::stdout().write_all(b".").expect("somebody listens");
    std::io::stdout().flush().expect("somebody listens");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("it ends");
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::SIGCHLD;
    let arguments = [c"/bin/true".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    for _ in 0..count {
        // SAFETY: a fork in a process of one thread, whose child does nothing but become another programme.
        let status = unsafe {
            let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
            if pid == 0 {
                libc::execve(arguments[0], arguments.as_ptr(), environment.as_ptr());
                libc::_exit(127);
            }
            let mut status = 0;
            libc::waitpid(pid as i32, &mut status, 0);
            status
        };
        assert_eq!(status, 0, "a process can be cloned into new namespaces");
    }
}

/// Directories of runs, of which each serves one after another: what a file system needs to make files is not the
/// sandbox's to answer for.
fn stage(directory: &Path, count: usize) -> Vec<PathBuf> {
    let places: Vec<_> = (0..count).map(|run| directory.join(run.to_string())).collect();
    for place in &places {
        fs::create_dir_all(place.join("exec/out")).expect("a directory can be made");
    }
    places
}

/// Runs in sandboxes; seconds from when the sandbox was warm.
fn sandboxes(places: &[PathBuf], runs: usize) -> f64 {
    let sandbox = Sandbox::new(Config::default());
    let running: Vec<_> = places.iter().map(|place| sandbox.start(spec(place)).expect("it starts")).collect();
    for run in running {
        run.wait().expect("it ends");
    }
    let started = Instant::now();
    thread::scope(|scope| {
        for place in places {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for _ in 0..runs / places.len() {
                    let exit = sandbox.run(spec(place)).expect("the sandbox works here");
                    assert_eq!(exit.ending.code(), 0);
                }
            });
        }
    });
    started.elapsed().as_secs_f64()
}

fn spec(directory: &Path) -> Spec {
    Spec {
        directory: directory.into(),
        arguments: vec!["/bin/true".into()],
        writable: vec!["out".into()],
        ..Spec::default()
    }
}
