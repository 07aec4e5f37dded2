//! Attempts to get out, or to leave something behind. Each is a command that would succeed on the host, or for which the
//! test shows that what it looks for is really there.

use crate::{Case, Ran, lives};
use mortar_sandbox::{Ending, Limits};
use std::{
    fs,
    io::Read,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    process::Command,
};

/// Runs a Python programme.
fn python(program: &str) -> Ran {
    let mut case = Case::new("").writable("out").input("p.py", program);
    case.spec.arguments = vec!["/usr/bin/python3".into(), "p.py".into()];
    case.run()
}

fn unsuccessful(ran: &Ran, what: &str) {
    assert_ne!(ran.exit.ending.code(), 0, "{what}: {}{}", ran.stdout, ran.stderr);
}

#[test]
fn other_runs_files_are_out_of_sight() {
    let hidden = format!("secret-{}", std::process::id());
    let other = Case::new("true").input(&hidden, "s3cret");
    let secret = other.exec(&hidden);
    let script = format!("cat {} || find / -name {hidden} 2>/dev/null | grep .", secret.display());
    unsuccessful(&Case::new(&script).run(), "a path");
    // By whatever is left open, mounted or running.
    let ran = Case::new(
        "for d in /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/fd/*; do ls $d/; done 2>/dev/null",
    )
    .run();
    assert!(!ran.stdout.contains(&hidden) && !ran.stdout.contains("home"), "{}", ran.stdout);
    let ran = Case::new("cat /proc/self/mountinfo").run();
    let name = other.directory.path().file_name().unwrap().to_str().unwrap();
    assert!(ran.ok().contains("/mortar/exec") && !ran.stdout.contains(name), "{}", ran.stdout);
}

#[test]
fn the_hosts_home_and_secrets_are_not_there() {
    for path in ["/root", "/home", "/var", "/etc/shadow", "/etc/ssh", "/run", "/boot", "/sys", "/mnt", "/srv"]
    {
        let ran = Case::new(&format!("test -e {path}")).run();
        unsuccessful(&ran, path);
    }
    // The test's own environment, which its helper and so pid 1 descend from.
    assert!(std::env::vars().count() > 1);
    let ran = Case::new("cat /proc/*/environ | tr '\\0' '\\n' | sort -u").run();
    for line in ran.stdout.lines().filter(|line| !line.is_empty()) {
        let known = ["PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="];
        assert!(known.iter().any(|name| line.starts_with(name)), "{line}");
    }
}

#[test]
fn signals_reach_nobody_outside() {
    let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = victim.id();
    unsuccessful(&Case::new(&format!("kill -9 {pid}")).run(), "by number");
    // Everybody at once: of that the command itself is part.
    Case::new("kill -9 -1; true").run();
    assert!(victim.try_wait().unwrap().is_none(), "the victim lives");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

const TRACE: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16
sys.exit(0 if libc.ptrace(PTRACE_ATTACH, int(sys.argv[1]) if len(sys.argv) > 1 else 1, 0, 0) == 0 else 1)
"#;

#[test]
fn pid_1_cannot_be_traced_nor_read() {
    unsuccessful(&python(TRACE), "ptrace");
    for file in ["mem", "maps", "environ", "fd/0", "auxv"] {
        unsuccessful(&Case::new(&format!("head -c 1 /proc/1/{file}")).run(), file);
    }
    for link in ["root/", "cwd/", "fd/"] {
        unsuccessful(&Case::new(&format!("ls /proc/1/{link}")).run(), link);
    }
    unsuccessful(&Case::new("readlink /proc/1/ns/mnt").run(), "namespaces");
    // A child of its own can be, as sanitizers and debuggers need it.
    let own = "import ctypes, os, signal, time\npid = os.fork()\nif pid == 0:\n  time.sleep(60)\n\
               assert ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0\nos.kill(pid, signal.SIGKILL)\n";
    python(own).ok();
}

#[test]
fn the_hosts_network_is_out_of_reach() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let name = format!("mortar-escape-{}", std::process::id());
    let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for listener in [tcp.set_nonblocking(true), udp.set_nonblocking(true), unix.set_nonblocking(true)] {
        listener.unwrap();
    }
    let program = format!(
        "import socket\nu = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nu.sendto(b'x', ('127.0.0.1', {}))\n\
         for family, address in [(socket.AF_INET, ('127.0.0.1', {})), (socket.AF_UNIX, '\\0{name}')]:\n\
         \x20 try:\n    socket.socket(family).connect(address)\n    raise SystemExit(1)\n  except ConnectionRefusedError:\n    pass\n",
        udp.local_addr().unwrap().port(),
        tcp.local_addr().unwrap().port()
    );
    python(&program).ok();
    assert!(tcp.accept().is_err() && unix.accept().is_err() && udp.recv(&mut [0; 8]).is_err());
    for family in ["AF_VSOCK", "AF_PACKET", "AF_ALG"] {
        let ran = python(&format!(
            "import socket\nsocket.socket(socket.{family}, socket.SOCK_RAW if '{family}' == 'AF_PACKET' else socket.SOCK_STREAM)"
        ));
        unsuccessful(&ran, family);
    }
}

#[test]
fn a_fork_bomb_ends_with_its_time() {
    let mut case = Case::new(":(){ :|:& };:; sleep 60");
    case.spec.limits = Limits { processes: Some(100), memory: Some(512 << 20), ..Limits::default() };
    case.spec.timeout = Some(std::time::Duration::from_secs(2));
    let ran = case.run();
    assert!(matches!(ran.exit.ending, Ending::TimedOut | Ending::Exceeded { .. }), "{:?}", ran.exit);
}

#[test]
fn leftover_daemons_are_gone() {
    let mark = format!("9{}", std::process::id());
    let program = format!(
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    os.execv('/bin/sleep', ['sleep', '{mark}'])\n  os._exit(0)\n\
         deadline = time.time() + 20\nwhile os.popen('pgrep -f \"^sleep {mark}\"').read() == '' and time.time() < deadline: pass\n\
         print(os.popen('pgrep -cf \"^sleep {mark}\"').read())\n"
    );
    assert_eq!(python(&program).ok().trim(), "1", "it was there");
    assert!(!lives(&format!("sleep {mark}")));
}

#[test]
fn set_uid_gains_nothing() {
    // As root we can make a programme that would give root to whoever runs it.
    let case = Case::new("out/id -u; cat /proc/self/status | grep -c 'NoNewPrivs:.1'").writable("out");
    fs::copy("/usr/bin/id", case.exec("out/id")).unwrap();
    fs::set_permissions(case.exec("out/id"), fs::Permissions::from_mode(0o6755)).unwrap();
    assert_eq!(case.run().ok(), "1000\n1\n");
    unsuccessful(
        &Case::new("su -c true || mount -t tmpfs x /tmp || passwd -d root").run(),
        "set-uid programmes",
    );
}

#[test]
fn forbidden_calls_are_refused() {
    // Number on x86-64 and on arm64, and arguments.
    let calls = [
        ("mount", 165, 40, "b'none', b'/tmp', b'tmpfs', 0, 0"),
        ("umount2", 166, 39, "b'/tmp', 2"),
        ("pivot_root", 155, 41, "b'/tmp', b'/tmp'"),
        ("chroot", 161, 51, "b'/tmp'"),
        ("unshare", 272, 97, "0x10000000"),
        ("unshare", 272, 97, "0x00020000"),
        ("clone", 56, 220, "0x10000011, 0, 0, 0, 0"),
        ("setns", 308, 268, "0, 0"),
        ("open_tree", 428, 428, "-100, b'/', 1"),
        ("fsopen", 430, 430, "b'tmpfs', 0"),
        ("mount_setattr", 442, 442, "-100, b'/', 0, 0, 0"),
        ("bpf", 321, 280, "0, 0, 0"),
        ("perf_event_open", 298, 241, "0, 0, -1, -1, 0"),
        ("add_key", 248, 217, "b'user', b'x', b'y', 1, -2"),
        ("keyctl", 250, 219, "0, -3, 0"),
        ("userfaultfd", 323, 282, "1"),
        ("io_uring_setup", 425, 425, "1, 0"),
        ("kexec_load", 246, 104, "0, 0, 0, 0"),
        ("reboot", 169, 142, "0, 0, 0, 0"),
        ("swapon", 167, 224, "b'/x', 0"),
        ("init_module", 175, 105, "0, 0, b''"),
        ("open_by_handle_at", 304, 265, "-100, 0, 0"),
        ("sethostname", 170, 161, "b'x', 1"),
        ("syslog", 103, 116, "3, 0, 0"),
    ];
    let mut program = "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\n".to_owned();
    for (name, x86, arm, arguments) in calls {
        let number = if cfg!(target_arch = "x86_64") { x86 } else { arm };
        program += &format!(
            "ctypes.set_errno(0); r = l.syscall({number}, {arguments}); assert r == -1 and ctypes.get_errno() == 1, ('{name}', r, ctypes.get_errno())\n"
        );
    }
    // For this one libraries have another way.
    program += "r = l.syscall(435, 0, 0); assert r == -1 and ctypes.get_errno() == 38, ctypes.get_errno()\n";
    python(&program).ok();
}

#[test]
fn the_kernels_switches_are_out_of_reach() {
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/self/oom_score_adj.x",
        "/proc/1/oom_score_adj",
        "/sys/kernel/x",
        "/dev/x",
        "/dev/kmsg",
    ] {
        unsuccessful(&Case::new(&format!("echo 1 > {path}")).run(), path);
    }
    unsuccessful(&Case::new("mknod out/disk b 254 0 && cat out/disk").writable("out").run(), "a device");
    unsuccessful(&Case::new("ls /dev/vd* /dev/sd* /dev/kmem /dev/mem /dev/fuse /dev/kvm").run(), "devices");
    unsuccessful(&Case::new("echo -1000 > /proc/self/oom_score_adj").run(), "not to be killed");
}

#[test]
fn outputs_that_are_links_lead_nowhere() {
    // What the command leaves as a link is a link for whoever collects it.
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("secret"), "s3cret").unwrap();
    let script = format!("ln -s {} out/link && ! cat out/link/secret", host.path().display());
    let ran = Case::new(&script).writable("out").run();
    ran.ok();
    assert!(fs::symlink_metadata(ran.case.exec("out/link")).unwrap().is_symlink());
    // And a directory that is replaced by one while the run lasts leads its writes nowhere either.
    let script = format!("rmdir out/sub && ln -s {} out/sub && echo x > out/sub/new", host.path().display());
    unsuccessful(&Case::new(&script).writable("out").writable("out/sub").run(), "a replaced directory");
    let mut names = String::new();
    fs::File::open(host.path().join("secret")).unwrap().read_to_string(&mut names).unwrap();
    assert_eq!((names.as_str(), fs::read_dir(host.path()).unwrap().count()), ("s3cret", 1));
}

#[test]
fn input_mounts_cannot_be_uncovered() {
    for script in [
        "umount /mortar/exec",
        "umount -l /proc && ls /proc/1/exe",
        "mount --bind out in",
        "mount -o remount,rw /mortar/exec",
        "unshare -rm true",
        "unshare -r true",
        "nsenter -t 1 -m true",
        "chroot . /bin/true",
        "rename=1; mv in in2",
    ] {
        unsuccessful(&Case::new(script).input("in/x", "x").writable("out").run(), script);
    }
}

#[test]
fn a_full_disk_is_not_to_be_had() {
    let mut case = Case::new("head -c 50M /dev/zero > out/x").writable("out");
    case.spec.limits = Limits { output: Some(4 << 20), ..Limits::default() };
    let ran = case.run();
    unsuccessful(&ran, "a large output");
    assert!(fs::metadata(ran.case.exec("out/x")).unwrap().len() <= 4 << 20);
}
