//! The few mount calls that the sandbox needs.

use super::{Failure, Step, check};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    ffi::{CStr, CString},
    io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const EMPTY: &CStr = c"";

/// A tree of mounts that is mounted nowhere, until it is put somewhere; gone when this is dropped before.
#[derive(Debug)]
pub struct View(OwnedFd);

impl View {
    /// What is at `source`, with everything mounted below it, which the kernel insists on where parts of the tree were
    /// mounted by somebody mightier.
    pub fn of(source: &Path) -> Result<Self, Failure> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
        let open = || -> io::Result<OwnedFd> {
            let path = CString::new(source.as_os_str().as_bytes())?;
            // SAFETY: the path is NUL-terminated and outlives the call.
            let fd =
                check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
            // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        open().map(Self).step(|| format!("make a view of `{}`", source.display()))
    }

    /// Makes it read-only, without devices or set-uid.
    pub fn seal(&self) -> Result<(), Failure> {
        set(self.0.as_raw_fd(), EMPTY, RDONLY | NOSUID | NODEV, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)
            .step(|| "seal a view".into())
    }

    /// Makes it free of devices and set-uid, but writable. To be done before it is put anywhere: in a tree that is not mounted
    /// itself, the kernel changes no mount but the root.
    pub fn tame(&self) -> Result<(), Failure> {
        set(self.0.as_raw_fd(), EMPTY, NOSUID | NODEV, libc::AT_EMPTY_PATH).step(|| "restrict a view".into())
    }

    /// Makes its root writable again, but nothing that is mounted below it.
    pub fn unseal(&self) -> Result<(), Failure> {
        change(self.0.as_raw_fd(), EMPTY, (0, RDONLY), libc::AT_EMPTY_PATH).step(|| "open a view".into())
    }

    /// Puts it at `target`. It stays what this names: its path then leads to where it is.
    pub fn put(&self, target: &Path) -> Result<(), Failure> {
        const FROM_EMPTY_PATH: u32 = 4;
        let put = || -> io::Result<()> {
            let path = CString::new(target.as_os_str().as_bytes())?;
            // SAFETY: both paths are NUL-terminated and outlive the call.
            check(unsafe {
                libc::syscall(
                    libc::SYS_move_mount,
                    self.0.as_raw_fd(),
                    EMPTY.as_ptr(),
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    FROM_EMPTY_PATH,
                )
            })?;
            Ok(())
        };
        put().step(|| format!("mount a view on `{}`", target.display()))
    }

    /// A path that leads into it, for as long as this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Shows `source` at `target` too; with everything mounted below it.
pub fn bind(source: &Path, target: &Path) -> Result<(), Failure> {
    View::of(source)?.put(target)
}

/// Mounts a new file system.
pub fn fresh(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<(), Failure> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .step(|| format!("mount {kind} on `{}`", target.display()))
}

/// Makes mounts and unmounts here invisible to others, and theirs to us.
pub fn isolate() -> Result<(), Failure> {
    propagate(MsFlags::MS_PRIVATE)
}

/// Makes mounts and unmounts here invisible to others, but not theirs to us.
pub fn follow() -> Result<(), Failure> {
    propagate(MsFlags::MS_SLAVE)
}

fn propagate(how: MsFlags) -> Result<(), Failure> {
    mount(None::<&str>, "/", None::<&str>, how | MsFlags::MS_REC, None::<&str>)
        .step(|| "separate the mounts".into())
}

/// Makes a mount and everything mounted below it read-only, without devices or set-uid.
pub fn seal(target: &Path) -> Result<(), Failure> {
    set_at(target, RDONLY | NOSUID | NODEV, libc::AT_RECURSIVE)
        .step(|| format!("seal `{}`", target.display()))
}

/// Makes a mount of devices read-only.
pub fn fix(target: &Path) -> Result<(), Failure> {
    set_at(target, RDONLY, 0).step(|| format!("seal `{}`", target.display()))
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

fn set_at(target: &Path, attributes: u64, flags: libc::c_int) -> io::Result<()> {
    set(libc::AT_FDCWD, &CString::new(target.as_os_str().as_bytes())?, attributes, flags)
}

fn set(directory: libc::c_int, path: &CStr, attributes: u64, flags: libc::c_int) -> io::Result<()> {
    change(directory, path, (attributes, 0), flags)
}

fn change(
    directory: libc::c_int,
    path: &CStr,
    (set, clear): (u64, u64),
    flags: libc::c_int,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is NUL-terminated and the structure of the size that is told; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
