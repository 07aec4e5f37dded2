//! What the root holds for one run alone: its staged root, its logs, and an empty `/tmp` and its like. All of it is made
//! ready in the helper, since the process that mounts it shares its memory (`sharing.rs`).

use super::views::Views;
use rustix::{
    fs::{CWD, statfs},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, mount, move_mount},
};
use std::ffi::{CStr, CString};

/// The steps of [`complete`], for its failures.
pub const STEPS: [&str; 5] =
    ["mount `/proc`", "mount `/tmp`", "mount `/dev/shm`", "mount `/dev/pts`", "mount the staged root"];

struct Fresh {
    kind: &'static CStr,
    target: &'static CStr,
    flags: MountFlags,
    options: Options,
}

enum Options {
    Fixed(&'static CStr),
    Scratch,
}

/// Options of the file systems in memory, for so many bytes in each.
pub fn scratch_options(most: Option<u64>) -> CString {
    let size = most.map_or(String::new(), |most| format!(",size={}", most.max(1)));
    CString::new(format!("mode=1777{size}")).expect("numbers hold no NUL")
}

const PRIVATE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const TERMINALS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

const FRESH: [Fresh; 4] = [
    Fresh {
        kind: c"proc",
        target: c"/proc",
        flags: PRIVATE.union(MountFlags::NOEXEC),
        options: Options::Fixed(c""),
    },
    Fresh { kind: c"tmpfs", target: c"/tmp", flags: PRIVATE, options: Options::Scratch },
    Fresh { kind: c"tmpfs", target: c"/dev/shm", flags: PRIVATE, options: Options::Scratch },
    Fresh {
        kind: c"devpts",
        target: c"/dev/pts",
        flags: TERMINALS,
        options: Options::Fixed(c"newinstance,ptmxmode=0666,mode=620"),
    },
];

/// Completes the copy of the common root that this process has for itself. Tells the step that failed, counted from 0.
pub fn complete(views: &Views, scratch: &CStr) -> Result<(), (usize, Errno)> {
    for (step, Fresh { kind, target, flags, options }) in FRESH.iter().enumerate() {
        let options = match options {
            Options::Fixed(options) => options,
            Options::Scratch => scratch,
        };
        mount(*kind, *target, *kind, *flags, options).map_err(|errno| (step, errno))?;
    }
    for (view, target) in views.all() {
        move_mount(view, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| (FRESH.len(), errno))?;
    }
    Ok(())
}

/// Whether one of the file systems in memory is full.
pub fn scratch_is_full() -> bool {
    [c"/tmp", c"/dev/shm"]
        .iter()
        .any(|path| statfs(*path).is_ok_and(|found| found.f_blocks > 0 && found.f_bavail == 0))
}
