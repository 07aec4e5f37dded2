//! What the root holds for one run alone: its staged root, its logs, and an empty `/tmp` and its like.

use super::{Failure, mounts, views::Views};
use crate::EXEC_ROOT;
use nix::mount::MsFlags;
use std::path::Path;

/// Completes the copy of the common root that this process has for itself.
pub fn complete(views: &Views) -> Result<(), Failure> {
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let quiet = private | MsFlags::MS_NOEXEC;
    mounts::fresh("proc", Path::new("/proc"), quiet, "")?;
    mounts::fresh("tmpfs", Path::new("/tmp"), private, "mode=1777")?;
    mounts::fresh("tmpfs", Path::new("/dev/shm"), private, "mode=1777")?;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mounts::fresh("devpts", Path::new("/dev/pts"), terminals, "newinstance,ptmxmode=0666,mode=620")?;
    views.exec.put(Path::new(EXEC_ROOT))?;
    for (name, view) in &views.logs {
        view.put(&Path::new("/mortar").join(name))?;
    }
    Ok(())
}
