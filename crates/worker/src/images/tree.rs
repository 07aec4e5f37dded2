//! The root directory of an image while it is made. No path leaves it: each is walked by the kernel with this directory
//! as the root, so that links that lead outside lead to what is inside, as they will in the sandbox.
//!
//! What is kept of files is their content, whether they are executable, and when they were changed. They belong to us;
//! set-uid, set-gid and devices would only be of use to those who attack.

use mortar_model::{Error, Result};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fchmod, futimens, linkat,
        mkdirat, open, openat, openat2, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

/// A directory that is filled.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// What is kept of a file's attributes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes {
    /// Permissions.
    pub mode: u32,
    /// When it was changed, in seconds since 1970.
    pub modified: i64,
}

impl Tree {
    /// The directory at a path of the host.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty());
        let failed = |error: Errno| Error::io(format!("open `{}`", path.display()), error.into());
        Ok(Self { root: root.map_err(failed)? })
    }

    /// Makes a directory, unless there is one.
    pub fn directory(&self, path: &Path, attributes: Attributes) -> Result<()> {
        let make = || -> io::Result<()> {
            let Some((parent, name)) = self.place(path)? else { return Ok(()) };
            if !is_directory(&parent, name)? {
                remove(&parent, name)?;
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
            }
            // Whoever cannot look into it could not remove it either.
            let mode = Mode::from_bits_truncate(attributes.mode & 0o777 | 0o700);
            let made = openat(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | PLAIN, Mode::empty())?;
            Ok(fchmod(made, mode)?)
        };
        make().map_err(failed("make the directory", path))
    }

    /// Makes a file, in the place of whatever is there.
    pub fn file(&self, path: &Path, content: &mut dyn Read, attributes: Attributes) -> Result<()> {
        let mut make = || -> io::Result<()> {
            let (parent, name) = self.clear(path)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | PLAIN;
            let mut file = File::from(openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?);
            io::copy(content, &mut file)?;
            fchmod(&file, Mode::from_bits_truncate(attributes.mode & 0o777 | 0o400))?;
            let time = Timespec { tv_sec: attributes.modified, tv_nsec: 0 };
            Ok(futimens(&file, &Timestamps { last_access: time, last_modification: time })?)
        };
        make().map_err(failed("write the file", path))
    }

    /// Makes a symbolic link, in the place of whatever is there.
    pub fn symlink(&self, path: &Path, to: &OsStr) -> Result<()> {
        let make = || -> io::Result<()> {
            let (parent, name) = self.clear(path)?;
            Ok(symlinkat(to, parent, name)?)
        };
        make().map_err(failed("make the link", path))
    }

    /// Makes another name of what lies at `to`, in the place of whatever is there.
    pub fn hard_link(&self, path: &Path, to: &Path) -> Result<()> {
        let make = || -> io::Result<()> {
            let Some((from, old)) = self.place(to)? else { return Err(Errno::ISDIR.into()) };
            let (parent, name) = self.place(path)?.ok_or(Errno::ISDIR)?;
            let (source, target) = (statat(&from, old, NOFOLLOW)?, statat(&parent, name, NOFOLLOW));
            if target.is_ok_and(|target| (target.st_dev, target.st_ino) == (source.st_dev, source.st_ino)) {
                return Ok(());
            }
            remove(&parent, name)?;
            Ok(linkat(from, old, parent, name, AtFlags::empty())?)
        };
        make().map_err(failed(&format!("link to `{}`", to.display()), path))
    }

    /// Removes what lies at a path, if anything does.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let removed = || match self.find_parent(path)? {
            Some((parent, name)) => remove(&parent, name),
            None => Ok(()),
        };
        removed().map_err(failed("remove", path))
    }

    /// Removes everything in a directory, if there is one.
    pub fn empty(&self, path: &Path) -> Result<()> {
        let emptied = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            match self.resolve(if path == Path::new("") { Path::new(".") } else { path }, flags) {
                Ok(directory) => remove_entries(directory),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        emptied().map_err(failed("empty the directory", path))
    }

    /// Opens a regular file.
    pub fn read(&self, path: &Path) -> Result<File> {
        let open = || -> io::Result<File> {
            let file = File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
        };
        open().map_err(failed("open", path))
    }

    fn clear<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (parent, name) = self.place(path)?.ok_or(Errno::ISDIR)?;
        remove(&parent, name)?;
        Ok((parent, name))
    }

    /// The directory in which a path ends, which is made where it is not there, and the name in it. None for the root.
    fn place<'a>(&self, path: &'a Path) -> io::Result<Option<(OwnedFd, &'a OsStr)>> {
        if let Some(found) = self.find_parent(path)? {
            return Ok(Some(found));
        }
        let Some(name) = path.file_name() else { return Ok(None) };
        let mut directory = self.resolve(Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
        let mut reached = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            reached.push(part);
            directory = match self.resolve(&reached, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {
                    mkdirat(&directory, part.as_os_str(), Mode::from_bits_truncate(0o755))?;
                    self.resolve(&reached, OFlags::PATH | OFlags::DIRECTORY)?
                }
                found => found?,
            };
        }
        Ok(Some((directory, name)))
    }

    /// The same where nothing is made.
    fn find_parent<'a>(&self, path: &'a Path) -> io::Result<Option<(OwnedFd, &'a OsStr)>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        match self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => Ok(Some((parent, name))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), inside)
    }
}

const PLAIN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);
const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// The path as it is in the root; none if it leads out of it.
pub fn inside(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(found)
}

fn failed<E: Into<io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> Error {
    let what = format!("{what} `{}` of the image", path.display());
    move |error| Error::io(what, error.into())
}

fn is_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    match statat(parent, name, NOFOLLOW) {
        Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if !is_directory(parent, name)? {
        return match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | PLAIN;
    remove_entries(openat(parent, name, flags, Mode::empty())?)?;
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn remove_entries(directory: OwnedFd) -> io::Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.iter().try_for_each(|name| remove(&directory, name))
}
