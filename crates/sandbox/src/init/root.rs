//! What the root holds for one run alone: its staged root, its logs, and an empty `/tmp` and its like. All of it is made
//! ready in the helper, since the process that mounts it shares its memory (`sharing.rs`).

use super::views::Views;
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{MountFlags, MoveMountFlags, mount, move_mount},
};
use std::ffi::CStr;

/// The steps of [`complete`], for its failures.
pub const STEPS: [&str; 5] =
    ["mount `/proc`", "mount `/tmp`", "mount `/dev/shm`", "mount `/dev/pts`", "mount the staged root"];

struct Fresh {
    kind: &'static CStr,
    target: &'static CStr,
    flags: MountFlags,
    options: &'static CStr,
}

const PRIVATE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const TERMINALS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

const FRESH: [Fresh; 4] = [
    Fresh { kind: c"proc", target: c"/proc", flags: PRIVATE.union(MountFlags::NOEXEC), options: c"" },
    Fresh { kind: c"tmpfs", target: c"/tmp", flags: PRIVATE, options: c"mode=1777" },
    Fresh { kind: c"tmpfs", target: c"/dev/shm", flags: PRIVATE, options: c"mode=1777" },
    Fresh {
        kind: c"devpts",
        target: c"/dev/pts",
        flags: TERMINALS,
        options: c"newinstance,ptmxmode=0666,mode=620",
    },
];

/// Completes the copy of the common root that this process has for itself. Tells the step that failed, counted from 0.
pub fn complete(views: &Views) -> Result<(), (usize, Errno)> {
    for (step, Fresh { kind, target, flags, options }) in FRESH.iter().enumerate() {
        mount(*kind, *target, *kind, *flags, *options).map_err(|errno| (step, errno))?;
    }
    for (view, target) in views.all() {
        move_mount(view, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| (FRESH.len(), errno))?;
    }
    Ok(())
}
