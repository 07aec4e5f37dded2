//! Looking at what a command left without being led out of its root: the kernel resolves every path beneath it, so a
//! link that leaves it is no way to the host's files. Nothing is opened but directories and regular files: to open a
//! pipe would wait for ever.
//!
//! The command may have closed to us what is its own; where we are its user, that is undone.
//!
//! A root that was laid over cached directories is looked at through all of them (`merged`).

use crate::merged::{Merged, Node};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, readlinkat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, ffi::OsStringExt, fs::PermissionsExt},
    },
    path::Path,
};

/// A directory that is not left.
#[derive(Debug)]
pub struct Root {
    own: OwnedFd,
    /// What it was laid over with itself as the first, if it was.
    layers: Vec<OwnedFd>,
}

/// What lies at a path.
#[derive(Debug)]
pub enum Found {
    /// A regular file.
    File(Stat),
    /// A directory.
    Directory(Stat),
    /// A symbolic link, with what it says.
    Link(OsString, Stat),
    /// A pipe, a socket, a device.
    Other,
}

impl Root {
    /// Opens the directory at a path of the host.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::over(path, &[])
    }

    /// Opens the directory at a path of the host as it was seen over these, the uppermost first.
    pub fn over(path: &Path, lower: &[&Path]) -> io::Result<Self> {
        let open = |path: &Path| {
            open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)
        };
        let own = open(path)?;
        let mut layers = Vec::new();
        if !lower.is_empty() {
            layers.push(own.try_clone()?);
            for path in lower {
                layers.push(open(path)?);
            }
        }
        Ok(Self { own, layers })
    }

    /// What lies at a path; none if nothing does, or if the way there leaves the root.
    pub fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        if !self.layers.is_empty() {
            return self.look_merged(path);
        }
        let node = match self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(node) => node,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&node)?;
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Found::File(stat),
            FileType::Directory => Found::Directory(stat),
            FileType::Symlink => {
                let target = readlinkat(&node, "", Vec::new())?;
                Found::Link(OsString::from_vec(target.into_bytes()), stat)
            }
            _ => Found::Other,
        }))
    }

    fn look_merged(&self, path: &Path) -> io::Result<Option<Found>> {
        let leaf = match Merged::top(&self.layers)?.find(path)? {
            Some(Node::Leaf(leaf)) => leaf,
            Some(Node::Directory(_, stat)) => return Ok(Some(Found::Directory(stat))),
            None => return Ok(None),
        };
        Ok(Some(match FileType::from_raw_mode(leaf.stat.st_mode) {
            FileType::RegularFile => Found::File(leaf.stat),
            FileType::Symlink => Found::Link(leaf.target()?, leaf.stat),
            _ => Found::Other,
        }))
    }

    /// Opens a regular file.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        if !self.layers.is_empty() {
            return match Merged::top(&self.layers)?.find(path)? {
                Some(Node::Leaf(leaf)) if is_file(&leaf.stat) => Ok(leaf.open()?.into()),
                _ => Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(self.read(path, OFlags::RDONLY | OFlags::NONBLOCK, 0o400)?.into())
    }

    /// The names in a directory, sorted by their bytes.
    pub fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        if !self.layers.is_empty() {
            return match Merged::top(&self.layers)?.find(path)? {
                Some(Node::Directory(directory, _)) => directory.list(),
                _ => Err(io::ErrorKind::NotFound.into()),
            };
        }
        let directory = self.read(path, OFlags::RDONLY | OFlags::DIRECTORY, 0o700)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, path: &Path, flags: OFlags, needed: u32) -> io::Result<OwnedFd> {
        match self.resolve(path, flags | OFlags::NOFOLLOW) {
            Err(Errno::ACCESS) => {
                let node = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)?;
                let mode = fstat(&node)?.st_mode & 0o777 | needed;
                fs::set_permissions(
                    format!("/proc/self/fd/{}", node.as_raw_fd()),
                    Permissions::from_mode(mode),
                )?;
                Ok(self.resolve(path, flags | OFlags::NOFOLLOW)?)
            }
            result => Ok(result?),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.own, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::unix::fs::symlink};

    #[test]
    fn nothing_outside_is_found() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = Root::open(inside.path()).unwrap();
        symlink(outside.path(), inside.path().join("away")).unwrap();
        symlink("../../../../..", inside.path().join("up")).unwrap();
        fs::create_dir(inside.path().join("dir")).unwrap();
        fs::write(inside.path().join("dir/file"), "text").unwrap();
        symlink("dir", inside.path().join("near")).unwrap();
        for path in ["away/secret", "up/etc/passwd", "../x", "nothing", "dir/file/x"] {
            assert!(root.look(Path::new(path)).unwrap().is_none(), "{path}");
        }
        assert!(matches!(root.look(Path::new("away")).unwrap(), Some(Found::Link(..))));
        assert!(matches!(root.look(Path::new("")).unwrap(), Some(Found::Directory(_))));
        assert!(matches!(root.look(Path::new("near/file")).unwrap(), Some(Found::File(_))));
        assert!(root.file(Path::new("away/secret")).is_err());
        let mut text = String::new();
        root.file(Path::new("near/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), root.list(Path::new("")).unwrap().len()), ("text", 4));
    }
}
