//! The few mount calls that the sandbox needs, by path.

use super::{Failure, Step, check};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{ffi::CString, io, mem::size_of, os::unix::ffi::OsStrExt, path::Path};

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;

/// Shows `source` at `target` too; with everything mounted below it, which the kernel insists on where parts of the
/// tree were mounted by somebody mightier.
pub fn bind(source: &Path, target: &Path) -> Result<(), Failure> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .step(|| format!("bind `{}` over `{}`", source.display(), target.display()))
}

/// Mounts a new file system.
pub fn fresh(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<(), Failure> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .step(|| format!("mount {kind} on `{}`", target.display()))
}

/// Makes mounts and unmounts here invisible to others, and theirs to us.
pub fn isolate() -> Result<(), Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .step(|| "make the mounts private".into())
}

/// Makes a mount and everything mounted below it read-only, without devices or set-uid.
pub fn seal(target: &Path) -> Result<(), Failure> {
    set(target, RDONLY | NOSUID | NODEV, libc::AT_RECURSIVE).step(|| format!("seal `{}`", target.display()))
}

/// Makes a mount free of devices and set-uid, but writable.
pub fn tame(target: &Path) -> Result<(), Failure> {
    set(target, NOSUID | NODEV, 0).step(|| format!("restrict `{}`", target.display()))
}

/// Takes a mount away, at the latest when it is no longer used.
pub fn detach(target: &Path) -> Result<(), Failure> {
    umount2(target, MntFlags::MNT_DETACH).step(|| format!("unmount `{}`", target.display()))
}

/// Makes `root` the root of this process, and the old root unreachable.
pub fn pivot(root: &Path) -> Result<(), Failure> {
    std::env::set_current_dir(root).step(|| "enter the new root".into())?;
    nix::unistd::pivot_root(".", ".").step(|| "make it the root".into())?;
    detach(Path::new("."))?;
    std::env::set_current_dir("/").step(|| "enter the new root".into())
}

fn set(target: &Path, attributes: u64, flags: libc::c_int) -> io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is NUL-terminated and the structure of the size that is told; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
