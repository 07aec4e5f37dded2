//! Namespaces: a process in new ones, the identities in them, their host name and loopback.

use super::{Failure, Step, check};
use crate::Layer;
use libc::c_int;
use nix::{sys::wait::waitpid, unistd::Pid};
use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Uid and gid of the command, as it sees them.
pub const INSIDE: u32 = 1000;

/// Every namespace that is made for a run alone, whatever the last one did.
pub const EACH_TIME: c_int = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID;

/// What to try, to learn which one is refused: each together with the user namespace that permits it.
pub const EACH: [(Layer, c_int); 6] = [
    (Layer::User, libc::CLONE_NEWUSER),
    (Layer::Mount, libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
    (Layer::Pid, libc::CLONE_NEWUSER | libc::CLONE_NEWPID),
    (Layer::Ipc, libc::CLONE_NEWUSER | libc::CLONE_NEWIPC),
    (Layer::Uts, libc::CLONE_NEWUSER | libc::CLONE_NEWUTS),
    (Layer::Network, libc::CLONE_NEWUSER | libc::CLONE_NEWNET),
];

/// Forks into new namespaces: none in the child, its pid in the parent.
pub fn clone_into(flags: c_int) -> io::Result<Option<Pid>> {
    // SAFETY: without CLONE_VM and with no stack given this is a fork, and this process has one thread, so the child
    // finds every lock free. Unused arguments are zero, whose order differs between architectures.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as i32)))
}

/// Whether these namespaces can be had.
pub fn try_one(flags: c_int) -> io::Result<()> {
    match clone_into(flags)? {
        // SAFETY: ends this child at once, without running what the parent registered for its own end.
        None => unsafe { libc::_exit(0) },
        Some(child) => {
            waitpid(child, None)?;
            Ok(())
        }
    }
}

/// Moves this process into new namespaces.
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: takes a number; this process has one thread.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Moves this process, which is no root, into a user namespace in which it has every capability, and is the user that
/// it was.
pub fn become_own_master() -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(libc::CLONE_NEWUSER).step(|| "create a user namespace".into())?;
    let maps = [
        ("setgroups", "deny".into()),
        ("gid_map", format!("{gid} {gid} 1")),
        ("uid_map", format!("{uid} {uid} 1")),
    ];
    for (name, text) in maps {
        fs::write(format!("/proc/self/{name}"), text)
            .step(|| format!("write `{name}` of the user namespace"))?;
    }
    Ok(())
}

/// Tells the kernel who is who in the child's user namespace. Root maps itself, for the set-up, and the command's
/// identity; others may map nobody but themselves.
pub fn map_identities(child: Pid, owner: Option<(u32, u32)>) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (uids, gids) = match owner {
        Some((owner, group)) => {
            (format!("0 {uid} 1\n{INSIDE} {owner} 1\n"), format!("0 {gid} 1\n{INSIDE} {group} 1\n"))
        }
        None => (format!("{INSIDE} {uid} 1\n"), format!("{INSIDE} {gid} 1\n")),
    };
    let write = |name: &str, text: &str| {
        fs::write(format!("/proc/{child}/{name}"), text)
            .step(|| format!("write `{name}` of the user namespace"))
    };
    write("gid_map", &gids)?;
    write("uid_map", &uids)
}

/// Brings loopback up.
pub fn raise_loopback() -> io::Result<()> {
    // SAFETY: takes numbers, gives a new descriptor that nobody else knows of.
    let socket = unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into())?;
        OwnedFd::from_raw_fd(fd as c_int)
    };
    // SAFETY: all zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a whole `ifreq` that outlives the call, as SIOCSIFFLAGS wants it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }.into())?;
    Ok(())
}
