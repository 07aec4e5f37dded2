//! Limits, and that the result tells which one it was.

use crate::{Case, Ran};
use mortar_sandbox::{Config, Ending, Isolation, Limit, Limits, Sandbox};

fn limited(script: &str, limits: Limits) -> Case {
    let mut case = Case::new(script).writable("out");
    case.spec.limits = limits;
    case
}

fn exceeded(ran: &Ran) -> Option<Limit> {
    match ran.exit.ending {
        Ending::Exceeded { limit, code } => {
            assert_ne!(code, 0);
            Some(limit)
        }
        _ => None,
    }
}

/// Whether this process can limit others by control groups.
fn groups_for(what: &str) -> bool {
    !Case::new("").sandbox.without_control_groups().contains(&what)
}

const MEMORY: &str = "import sys; print('kept', flush=True); x = bytearray(200 << 20); print(len(x))";

#[test]
fn too_much_memory() {
    let script = format!("python3 -c \"{MEMORY}\"");
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    let ran = limited(&script, limits.clone()).run();
    assert!(ran.stdout == "kept\n", "what it said is kept: {}", ran.stdout);
    if groups_for("memory") {
        assert_eq!(exceeded(&ran), Some(Limit::Memory), "{:?} {}", ran.exit, ran.stderr);
        assert!(ran.exit.usage.peak_memory > 32 << 20, "{:?}", ran.exit.usage);
    } else {
        assert_ne!(ran.exit.ending.code(), 0);
    }
    let enough = Limits { memory: Some(512 << 20), ..Limits::default() };
    let ran = limited(&script, enough).run();
    ran.ok();
    assert!(ran.exit.usage.peak_memory >= 200 << 20, "{:?}", ran.exit.usage);
}

#[test]
fn a_child_that_is_killed_for_memory_is_told_too() {
    if !groups_for("memory") {
        return;
    }
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    let script = format!("python3 -c \"{MEMORY}\" || exit 3");
    let ran = limited(&script, limits.clone()).run();
    assert_eq!(ran.exit.ending, Ending::Exceeded { limit: Limit::Memory, code: 3 });
    // Who succeeds nevertheless has succeeded.
    let ran = limited(&format!("python3 -c \"{MEMORY}\" || true"), limits).run();
    assert_eq!(ran.exit.ending, Ending::Code(0));
}

#[test]
fn memory_of_all_processes_and_of_tmp_is_counted() {
    if !groups_for("memory") {
        return;
    }
    let half = "python3 -c 'x = bytearray(80 << 20); import time; time.sleep(1.5)'";
    let limits = Limits { memory: Some(128 << 20), ..Limits::default() };
    let ran = limited(&format!("{half} & {half}; a=$?; wait $! && exit $a"), limits.clone()).run();
    assert_eq!(exceeded(&ran), Some(Limit::Memory), "{:?}", ran.exit);
    let ran = limited("head -c 200M /dev/zero > /tmp/x", limits).run();
    assert_eq!(exceeded(&ran), Some(Limit::Memory), "{:?}", ran.exit);
}

#[test]
fn too_many_processes() {
    let script = "for i in $(seq 60); do sleep 5 & done; wait -n; exit 1";
    let limits = Limits { processes: Some(20), ..Limits::default() };
    let ran = limited(script, limits.clone()).run();
    if groups_for("processes") {
        assert_eq!(exceeded(&ran), Some(Limit::Processes), "{:?} {}", ran.exit, ran.stderr);
    }
    assert!(ran.stderr.contains("fork"), "{}", ran.stderr);
    assert_eq!(limited("for i in $(seq 10); do true & done; wait", limits).run().ok(), "");
}

#[test]
fn without_control_groups_processes_and_memory_are_limited_all_the_same() {
    let limits = Limits { processes: Some(20), memory: Some(64 << 20), ..Limits::default() };
    let without = |script: &str| {
        let mut case = limited(script, limits.clone());
        let helper = crate::helper();
        case.sandbox = Sandbox::new(Config { helper, control_groups: false, ..Config::default() });
        case.run()
    };
    let ran = without("for i in $(seq 60); do sleep 5 & done; wait -n; exit 1");
    assert!(ran.stderr.contains("fork"), "{}", ran.stderr);
    let ran = without(&format!("python3 -c \"{MEMORY}\""));
    assert!(ran.stderr.contains("MemoryError"), "{:?} {}", ran.exit, ran.stderr);
}

#[test]
fn too_much_scratch() {
    for place in ["/tmp", "/dev/shm"] {
        let limits = Limits { scratch: Some(1 << 20), ..Limits::default() };
        let ran = limited(&format!("head -c 2M /dev/zero > {place}/x"), limits.clone()).run();
        assert_eq!(exceeded(&ran), Some(Limit::Scratch), "{place}: {:?} {}", ran.exit, ran.stderr);
        limited(&format!("head -c 900K /dev/zero > {place}/x"), limits).run().ok();
    }
}

#[test]
fn too_much_output() {
    let limits = Limits { output: Some(1 << 20), ..Limits::default() };
    let cases = [
        // One file, or a log.
        "head -c 2M /dev/zero > out/x",
        "head -c 2M /dev/zero",
        // Many, none of which is too large.
        "for i in $(seq 30); do head -c 100K /dev/zero > out/$i; done",
        // Many, while it runs: it is stopped long before its time.
        "for i in $(seq 30); do head -c 100K /dev/zero > out/$i; done; sleep 50",
    ];
    for script in cases {
        let ran = limited(script, limits.clone()).run();
        assert_eq!(exceeded(&ran), Some(Limit::Output), "{script}: {:?} {}", ran.exit, ran.stderr);
    }
    let inputs = limited("head -c 500K /dev/zero > out/x", limits);
    let large = "x".repeat(3 << 20);
    inputs.input("out/large", &large).run().ok();
}

#[test]
fn processor_time_is_limited() {
    if !groups_for("cpu") {
        return;
    }
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let limits = Limits { cpu_millis: Some(100), cpu_weight: Some(50), ..Limits::default() };
    let ran = limited(script, limits).run();
    ran.ok();
    let used = ran.exit.usage.user + ran.exit.usage.system;
    assert!(ran.exit.wall > used * 4, "{:?}", ran.exit);
}

#[test]
fn output_is_limited_without_a_sandbox_too() {
    let mut case = Case::with(Isolation::None, "head -c 2M /dev/zero > out/x").writable("out");
    case.spec.limits = Limits { output: Some(1 << 20), ..Limits::default() };
    assert_eq!(exceeded(&case.run()), Some(Limit::Output));
}

#[test]
fn what_was_used_is_told() {
    let script = "head -c 20M /dev/zero | sha256sum; head -c 4M /dev/zero > out/x; sync out/x; (sleep 0.1; head -c 50M /dev/zero | sha256sum) & wait";
    let usage = limited(script, Limits::default()).run().exit.usage;
    assert!(usage.user + usage.system > std::time::Duration::ZERO);
    assert!(usage.peak_memory >= usage.max_resident && usage.max_resident > 0);
    assert!(usage.written_bytes >= 4 << 20, "{usage:?}");
}
