//! How runs end, and that nothing outlives them.

use crate::{Case, lives};
use mortar_sandbox::{Ending, Isolation};
use std::{
    fs,
    time::{Duration, Instant},
};

const BOTH: [Isolation; 2] = [Isolation::Namespaces, Isolation::None];

/// A number that no other process of these tests uses.
fn mark(test: u32, case: u8) -> String {
    format!("{test}{case}7{}", std::process::id())
}

/// Waits for a condition, at most some seconds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn codes_signals_and_logs() {
    for isolation in BOTH {
        let ran = Case::with(isolation, "echo out; echo err >&2; exit 3").run();
        assert_eq!(
            (ran.exit.ending, ran.stdout.as_str(), ran.stderr.as_str()),
            (Ending::Code(3), "out\n", "err\n")
        );
        let ran = Case::with(isolation, "kill -SEGV $$").run();
        assert_eq!((ran.exit.ending, ran.exit.ending.code()), (Ending::Signal(11), 139));
        let ran = Case::with(isolation, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").run();
        ran.ok();
        assert!(ran.exit.usage.user > Duration::ZERO && ran.exit.usage.max_resident > 1 << 20);
        assert!(ran.exit.wall >= ran.exit.usage.user);
    }
}

#[test]
fn a_broken_pipe_kills_as_everywhere() {
    let ran = Case::new("yes | head -n 1; echo ${PIPESTATUS[0]}").run();
    assert_eq!(ran.ok(), "y\n141\n");
}

#[test]
fn the_time_limit_ends_all_and_keeps_logs() {
    for isolation in BOTH {
        let mark = mark(31, isolation as u8);
        let mut case =
            Case::with(isolation, &format!("echo before; (setsid sleep {mark}99 &) ; sleep {mark}98"));
        case.spec.timeout = Some(Duration::from_millis(300));
        let started = Instant::now();
        let ran = case.run();
        assert_eq!(ran.exit.ending, Ending::TimedOut);
        assert!(started.elapsed() >= Duration::from_millis(300));
        assert_eq!(ran.stdout, "before\n");
        assert!(!lives(&format!("sleep {mark}9")));
    }
}

#[test]
fn what_is_left_in_the_background_dies() {
    for isolation in BOTH {
        let mark = mark(32, isolation as u8);
        let script =
            format!("setsid sleep {mark}99 >/dev/null & (sleep {mark}98 &); trap '' TERM; echo done");
        let ran = Case::with(isolation, &script).run();
        assert_eq!(ran.ok(), "done\n");
        assert!(!lives(&format!("sleep {mark}9")));
    }
}

#[test]
fn a_cancelled_run_is_gone_when_the_wait_is_over() {
    for isolation in BOTH {
        let mark = mark(33, isolation as u8);
        let case = Case::with(isolation, &format!("echo started; setsid sleep {mark}99 & sleep {mark}98"));
        let running = case.start();
        let log = case.directory.path().join("stdout");
        eventually("the command starts", || fs::read(&log).is_ok_and(|text| !text.is_empty()));
        let canceller = running.canceller();
        let waiting = std::thread::spawn(move || running.wait().unwrap());
        let asked = Instant::now();
        canceller.cancel();
        let ran = case.ran(waiting.join().unwrap());
        assert_eq!((ran.exit.ending, ran.stdout.as_str()), (Ending::Cancelled, "started\n"));
        assert!(asked.elapsed() < Duration::from_secs(2));
        assert!(!lives(&format!("sleep {mark}9")));
        canceller.cancel();
    }
}

#[test]
fn a_run_that_nobody_waits_for_is_gone_too() {
    let sleep = format!("sleep {}", mark(34, 0));
    let case = Case::new(&sleep);
    drop(case.start());
    assert!(!lives(&sleep));
}

#[test]
fn a_killed_helper_takes_its_sandbox_with_it() {
    let sleep = format!("sleep {}", mark(35, 0));
    let case = Case::new(&format!("echo started; {sleep}"));
    let running = case.start();
    let log = case.directory.path().join("stdout");
    eventually("the command starts", || fs::read(&log).is_ok_and(|text| !text.is_empty()));
    let helper = rustix::process::Pid::from_raw(running.helper_id() as i32).unwrap();
    rustix::process::kill_process(helper, rustix::process::Signal::KILL).unwrap();
    let error = running.wait().unwrap_err().to_string();
    assert!(error.contains("helper"), "{error}");
    eventually("the sandbox ends", || !lives(&sleep));
}

#[test]
fn a_programme_that_is_no_helper_is_told_apart() {
    use mortar_sandbox::{Config, Sandbox};
    let case = Case::new("true");
    let sandbox = Sandbox::new(Config { helper: "/bin/true".into(), ..Config::default() });
    let error = sandbox.run(case.spec.clone()).unwrap_err().to_string();
    assert!(error.contains("helper"), "{error}");
}
