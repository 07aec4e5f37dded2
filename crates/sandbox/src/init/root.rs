//! What the root holds for one run alone: its processes, its staged root and its logs. What it finds besides that others
//! could have had before is `scratch.rs`'s. The views are made ready in the helper, since the process that mounts them
//! shares its memory (`sharing.rs`).

use super::views::Views;
use rustix::{
    fs::{CWD, statfs},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, mount, move_mount},
};

/// The steps of [`complete`], for its failures.
pub const STEPS: [&str; 2] = ["mount `/proc`", "mount the staged root"];

/// Completes the copy of the common root that this process has for itself. Tells the step that failed, counted from 0.
pub fn complete(views: &Views) -> Result<(), (usize, Errno)> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", flags, c"").map_err(|errno| (0, errno))?;
    for (view, target) in views.all() {
        move_mount(view, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| (1, errno))?;
    }
    Ok(())
}

/// Whether one of the file systems in memory is full.
pub fn scratch_is_full() -> bool {
    [c"/tmp", c"/dev/shm"]
        .iter()
        .any(|path| statfs(*path).is_ok_and(|found| found.f_blocks > 0 && found.f_bavail == 0))
}
