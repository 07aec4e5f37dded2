//! A helper serves many runs, and none of them finds anything of another.

use crate::Case;
use mortar_sandbox::Spec;
use std::fs;

/// Standard output of a further run by the same helper, which did this before.
fn again(first: &Case, helper: u32, script: &str) -> String {
    let second = Case::new(script);
    let spec = Spec { directory: second.directory.path().into(), ..second.spec.clone() };
    let running = first.sandbox.start(spec).unwrap();
    assert_eq!(running.helper_id(), helper, "it is the same one");
    let exit = running.wait().unwrap();
    second.ran(exit).ok().to_owned()
}

fn run(case: &Case) -> (u32, String) {
    let running = case.start();
    let helper = running.helper_id();
    assert_eq!(running.wait().unwrap().ending.code(), 0);
    (helper, fs::read_to_string(case.directory.path().join("stdout")).unwrap())
}

const NAMESPACES: &str = "cd /proc/self/ns; for n in user mnt pid ipc uts net; do readlink $n; done";

#[test]
fn namespaces_are_new_each_time_but_for_those_that_are_empty() {
    let case = Case::new(NAMESPACES);
    let (helper, first) = run(&case);
    let second = again(&case, helper, NAMESPACES);
    let (first, second): (Vec<_>, Vec<_>) = (first.lines().collect(), second.lines().collect());
    assert_eq!((first.len(), second.len()), (6, 6));
    // The number of a namespace may come again once it is gone, but these are never gone in between.
    assert_eq!(first[3..], second[3..]);
}

#[test]
fn a_network_that_was_used_is_not_used_again() {
    let uses = [
        // A packet.
        "echo x > /dev/udp/127.0.0.1/9",
        // Not even that: there is no way to where it should go.
        "! echo x > /dev/udp/192.0.2.1/9",
        "! echo x > /dev/udp/2001:db8::1/9",
        // A connection that lingers in the kernel when both ends are gone.
        "python3 -c 'import socket as s; l = s.create_server((\"127.0.0.1\", 0)); \
         c = s.create_connection(l.getsockname()); d = l.accept()[0]; c.close(); d.close()'",
    ];
    for use_it in uses {
        let case = Case::new(&format!("readlink /proc/self/ns/net; ({use_it}) 2>/dev/null"));
        let (helper, first) = run(&case);
        let look = "readlink /proc/self/ns/net; grep -h . /proc/net/dev /proc/net/tcp";
        let second = again(&case, helper, look);
        assert_ne!(second.lines().next(), first.lines().next(), "{use_it}");
        let loopback = second.lines().find(|line| line.trim_start().starts_with("lo:")).unwrap();
        assert!(loopback.split_whitespace().skip(1).all(|count| count == "0"), "{use_it}: {loopback}");
        assert!(!second.contains("0100007F"), "{use_it}: {second}");
    }
}

#[test]
fn shared_memory_and_queues_go_with_the_run() {
    let queue = "import ctypes; c = ctypes.CDLL(None, use_errno=True); import sys; \
                 sys.exit(c.mq_open(b'/q', 0o102, 0o600, None) < 0)";
    let uses = ["ipcmk -Q", "ipcmk -M 4096", "ipcmk -S 1", &format!("python3 -c \"{queue}\"")];
    for use_it in uses {
        let case = Case::new(&format!("readlink /proc/self/ns/ipc; {use_it} >/dev/null"));
        let (helper, first) = run(&case);
        let look = "readlink /proc/self/ns/ipc; ipcs | grep -c 0x; python3 -c \"import ctypes, sys; \
                    c = ctypes.CDLL(None); print(c.mq_open(b'/q', 0))\"";
        let second = again(&case, helper, look);
        let second: Vec<_> = second.lines().collect();
        assert_ne!(second[0], first.trim(), "{use_it}");
        assert_eq!(second[1..], ["0", "-1"], "{use_it}");
    }
}

/// What the next run finds of the same helper, after one that did this.
fn left(use_it: &str) -> String {
    let look = "stat -c %d /tmp /dev/shm /dev/pts; ls -A /tmp /dev/shm /dev/pts";
    let case = Case::new(&format!("{look}; ({use_it}) >/dev/null"));
    let (helper, first) = run(&case);
    let second = again(&case, helper, look);
    let (devices, found) = second.split_at(second.find("/dev/pts:").unwrap());
    assert_eq!(found, "/dev/pts:\nptmx\n\n/dev/shm:\n\n/tmp:\n", "{use_it}");
    (if first.starts_with(devices) { "the same" } else { "others" }).into()
}

#[test]
fn memory_that_nobody_wrote_to_is_there_again_and_no_other() {
    for looks in ["true", "ls /tmp; cat /tmp/x 2>/dev/null || true", "echo x > /dev/null"] {
        assert_eq!(left(looks), "the same", "{looks}");
    }
    for writes in ["echo x > /tmp/x", "echo x > /tmp/x && rm /tmp/x", "mkdir /dev/shm/x", "touch /tmp"] {
        assert_eq!(left(writes), "others", "{writes}");
    }
    // A terminal leaves nothing when it is closed, or is not found again.
    left("python3 -c 'import pty, os; m, s = pty.openpty(); os.write(s, b\"x\"); os.read(m, 1)'");
}

#[test]
fn a_cancel_that_comes_too_late_does_not_stop_the_next_run() {
    let case = Case::new("true");
    let running = case.start();
    let (helper, canceller) = (running.helper_id(), running.canceller());
    running.wait().unwrap();
    canceller.cancel();
    let second = Case::new("sleep 0.2; echo whole");
    let running = case.sandbox.start(second.spec.clone()).unwrap();
    assert_eq!(running.helper_id(), helper);
    canceller.cancel();
    let exit = running.wait().unwrap();
    assert_eq!(second.ran(exit).ok(), "whole\n");
}

#[test]
fn a_helper_that_was_killed_while_idle_is_replaced() {
    let case = Case::new("true");
    let (helper, _) = run(&case);
    let pid = rustix::process::Pid::from_raw(helper as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // It may still be on its way out, in which case the next run is told of it; the one after that is not.
    let outcomes = [0; 2].map(|_| case.start().wait().is_ok());
    assert!(outcomes[1], "{outcomes:?}");
}
