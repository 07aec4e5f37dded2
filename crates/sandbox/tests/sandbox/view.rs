//! What a command sees.

use crate::Case;
use std::{fs, net::TcpListener};

#[test]
fn the_environment_is_exactly_what_was_declared() {
    let mut case = Case::new("");
    case.spec.arguments = vec!["/usr/bin/env".into()];
    case.spec.environment = vec![("B".into(), "2 3".into()), ("A".into(), "ä=1\nx".into())];
    assert_eq!(case.run().ok(), "B=2 3\nA=ä=1\nx\n");
}

#[test]
fn the_place_and_the_identity_are_the_same_everywhere() {
    let script = "pwd; id -u; id -g; id -un; hostname; echo $$ ; ls -d /mortar/*; cat input";
    let ran = Case::new(script).input("sub/input", "hi").run_in("sub");
    let lines: Vec<_> = ran.lines().collect();
    assert_eq!(lines[..5], ["/mortar/exec/sub", "1000", "1000", "mortar", "mortar"]);
    assert!(lines[5].parse::<u32>().unwrap() < 10, "its pids are its own");
    assert_eq!(lines[6..], ["/mortar/exec", "/mortar/stderr", "/mortar/stdout", "hi"]);
}

#[test]
fn of_the_host_only_system_directories_are_there() {
    let marker = tempfile::tempdir().unwrap();
    fs::write(marker.path().join("secret"), "x").unwrap();
    let script = format!(
        "ls / | tr '\\n' ' '; test ! -e {} && test ! -e /home && test ! -e /root && test ! -e /etc/shadow \
         && test ! -e /var && ls /tmp | wc -l",
        marker.path().join("secret").display()
    );
    let ran = Case::new(&script).run();
    let names: Vec<_> = ran.ok().lines().next().unwrap().split_whitespace().collect();
    assert_eq!(names.last(), Some(&"0"), "{names:?}");
    let known =
        ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "mortar", "proc", "sbin", "tmp", "usr", "0"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
}

#[test]
fn system_directories_cannot_be_written() {
    for path in ["/usr/x", "/etc/x", "/x", "/mortar/x", "/mortar/exec/x", "/proc/sys/kernel/hostname"] {
        let ran = Case::new(&format!("echo x > {path}")).run();
        assert_ne!(ran.exit.ending.code(), 0, "{path}");
    }
}

#[test]
fn there_is_no_network_but_its_own_loopback() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ran = Case::new(&format!("exec 3<>/dev/tcp/127.0.0.1/{port}")).run();
    assert_ne!(ran.exit.ending.code(), 0);
    assert!(ran.stderr.contains("refused"), "loopback is up, but another one: {}", ran.stderr);
    let ran = Case::new("tail -n +3 /proc/net/dev | wc -l").run();
    assert_eq!(ran.ok().trim(), "1");
}

#[test]
fn tmp_is_private_and_empty_each_time() {
    for _ in 0..2 {
        assert_eq!(
            Case::new("ls -A /tmp /dev/shm && echo x > /tmp/a && echo x > /dev/shm/a").run().ok(),
            "/dev/shm:\n\n/tmp:\n"
        );
    }
}

#[test]
fn devices_work() {
    let script = "head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 4 /dev/urandom | wc -c; echo e > /dev/stderr; \
                  echo o >> /dev/stdout; cat < /dev/stdin | wc -c; cat <(echo fd); test ! -e /dev/vda";
    let ran = Case::new(script).run();
    assert_eq!(ran.ok(), "3\n4\no\n0\nfd\n");
    assert_eq!(ran.stderr, "e\n");
}

#[test]
fn there_are_no_rights_to_be_had() {
    let script =
        "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status | tr -d '\\t\\n'";
    let none = "0000000000000000";
    let expected = format!("CapInh:{none}CapPrm:{none}CapEff:{none}CapBnd:{none}CapAmb:{none}NoNewPrivs:1");
    assert_eq!(Case::new(script).run().ok(), expected);
    for refused in [
        "mount -t tmpfs none /tmp",
        "chroot /",
        "hostname x",
        "umount /mortar/exec",
        "kill -9 1; test ! -e /proc/1",
        "cat /proc/1/environ",
        "ls -l /proc/1/fd/",
    ] {
        assert_ne!(Case::new(refused).run().exit.ending.code(), 0, "{refused}");
    }
}

#[test]
fn programs_are_found_as_a_shell_would() {
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut case = Case::new("").input("bin/tool", "#!/bin/sh\necho tool $1\n");
        case.spec.arguments = arguments.iter().map(|part| (*part).into()).collect();
        case.spec.environment = environment.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        case.run()
    };
    assert_eq!(run(&["bin/tool", "1"], &[]).ok(), "tool 1\n");
    assert_eq!(run(&["/mortar/exec/bin/tool", "2"], &[]).ok(), "tool 2\n");
    assert_eq!(run(&["tool", "3"], &[("PATH", "/nowhere:bin")]).ok(), "tool 3\n");
    assert_eq!(run(&["true"], &[]).ok(), "");
    let absent = run(&["bin/absent"], &[]);
    assert_eq!(absent.exit.ending.code(), 127);
    assert!(absent.stderr.contains("cannot run `bin/absent`"), "{}", absent.stderr);
    assert_eq!(run(&["absent"], &[]).exit.ending.code(), 127);
    assert_eq!(run(&["bin"], &[]).exit.ending.code(), 127);
    assert_eq!(run(&["./bin"], &[]).exit.ending.code(), 126);
}

impl Case {
    fn run_in(mut self, directory: &str) -> String {
        self.spec.working_directory = directory.into();
        self.run().ok().to_owned()
    }
}
