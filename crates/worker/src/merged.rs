//! Looking through layers as the command saw them merged: the run's own directory over cached ones. The kernel did that
//! for the command; its mount is gone when outputs are looked for, so here it is done again, by the same few rules: what
//! is above wins, directories merge, a device 0/0 hides what is below, and so does a directory that says it is opaque.

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, getxattr, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{OsStr, OsString},
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, ffi::OsStringExt, fs::PermissionsExt},
    },
    path::{Component, Path},
    rc::Rc,
};

/// Links that are followed on one way.
const MOST_LINKS: usize = 40;
/// Says of a directory that nothing below it is to be seen.
const OPAQUE: &str = "user.overlay.opaque";

/// A directory that may be in several layers, the uppermost first.
#[derive(Clone, Debug)]
pub struct Merged {
    layers: Vec<Rc<OwnedFd>>,
    /// The first of them is in the run's own layer, which the command may have written to.
    has_own: bool,
}

/// What lies at a path, not followed if it is a link.
#[derive(Debug)]
pub enum Node {
    /// A directory.
    Directory(Merged, Stat),
    /// Anything else.
    Leaf(Leaf),
}

/// What is no directory, by its name in a directory of one layer.
#[derive(Debug)]
pub struct Leaf {
    parent: Rc<OwnedFd>,
    name: OsString,
    /// What it is.
    pub stat: Stat,
    is_own: bool,
}

impl Leaf {
    /// Opens a file for reading.
    pub fn open(&self) -> io::Result<OwnedFd> {
        open(self.parent.as_fd(), &self.name, OFlags::NONBLOCK, self.is_own.then_some(0o400))
    }

    /// What a link says.
    pub fn target(&self) -> io::Result<OsString> {
        let target = readlinkat(&*self.parent, &self.name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }
}

impl Merged {
    /// The top of the layers.
    pub fn top(layers: &[OwnedFd]) -> io::Result<Self> {
        let layers: io::Result<Vec<_>> = layers.iter().map(|layer| Ok(Rc::new(layer.try_clone()?))).collect();
        Ok(Self { layers: layers?, has_own: true })
    }

    /// What lies at a path below this, the top; none if nothing does, or if the way there leaves it.
    pub fn find(&self, path: &Path) -> io::Result<Option<Node>> {
        let mut way = vec![self.clone()];
        let mut parts: VecDeque<OsString> = match parts_of(path) {
            Some(parts) => parts.collect(),
            None => return Ok(None),
        };
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if part == ".." {
                way.pop();
                if way.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            let here = way.last().expect("the top is never left");
            match here.look(&part)? {
                Some(Node::Directory(directory, stat)) if parts.is_empty() => {
                    return Ok(Some(Node::Directory(directory, stat)));
                }
                Some(Node::Directory(directory, _)) => way.push(directory),
                Some(leaf) if parts.is_empty() => return Ok(Some(leaf)),
                Some(Node::Leaf(leaf)) if is(&leaf.stat, FileType::Symlink) && links < MOST_LINKS => {
                    links += 1;
                    let target = leaf.target()?;
                    let Some(target) = parts_of(Path::new(&target)) else { return Ok(None) };
                    let mut new: VecDeque<_> = target.collect();
                    new.append(&mut parts);
                    parts = new;
                }
                Some(Node::Leaf(_)) | None => return Ok(None),
            }
        }
        let here = way.pop().expect("the top is never left");
        let stat = here.stat()?;
        Ok(Some(Node::Directory(here, stat)))
    }

    /// The names in it, with what is whole of them, sorted by their bytes.
    pub fn list(&self) -> io::Result<Vec<OsString>> {
        let mut names = BTreeMap::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let needed = (self.has_own && index == 0).then_some(0o700);
            let readable = open(layer.as_fd(), OsStr::new("."), OFlags::DIRECTORY, needed)?;
            for entry in rustix::fs::Dir::new(readable)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let name = OsStr::from_bytes(name);
                let hides = || {
                    let stat = statat(&**layer, name, AtFlags::SYMLINK_NOFOLLOW);
                    stat.is_ok_and(|stat| is_nothing(&stat))
                };
                if !names.contains_key(name) {
                    let is_seen = entry.file_type() != FileType::CharacterDevice || !hides();
                    names.insert(name.to_owned(), is_seen);
                }
            }
        }
        Ok(names.into_iter().filter_map(|(name, is_seen)| is_seen.then_some(name)).collect())
    }

    /// What has this name here.
    fn look(&self, name: &OsStr) -> io::Result<Option<Node>> {
        let mut found: Vec<Rc<OwnedFd>> = Vec::new();
        let mut first = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let is_own = self.has_own && index == 0;
            let stat = match statat(&**layer, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if !is(&stat, FileType::Directory) {
                if found.is_empty() && !is_nothing(&stat) {
                    let (parent, name) = (layer.clone(), name.to_owned());
                    return Ok(Some(Node::Leaf(Leaf { parent, name, stat, is_own })));
                }
                break;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(&**layer, name, flags, Mode::empty())?;
            let is_last = is_own && is_opaque(&directory)?;
            first.get_or_insert((stat, is_own));
            found.push(Rc::new(directory));
            if is_last {
                break;
            }
        }
        Ok(first.map(|(stat, has_own)| Node::Directory(Self { layers: found, has_own }, stat)))
    }

    fn stat(&self) -> io::Result<Stat> {
        let own = self.layers.first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(rustix::fs::fstat(&**own)?)
    }
}

/// Opens for reading. What the command may have closed to us gets these rights back, and is opened then.
fn open(at: BorrowedFd<'_>, name: &OsStr, flags: OFlags, needed: Option<u32>) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match (openat(at, name, OFlags::RDONLY | flags, Mode::empty()), needed) {
        (Err(Errno::ACCESS), Some(needed)) => {
            let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = openat(at, name, path, Mode::empty()).or_else(|error| match error {
                // The directory itself is closed to us.
                Errno::ACCESS => rustix::io::dup(at),
                error => Err(error),
            })?;
            give_back(&node, needed)?;
            Ok(openat(at, name, OFlags::RDONLY | flags, Mode::empty())?)
        }
        (result, _) => Ok(result?),
    }
}

/// The rights that we need to a thing that is ours.
fn give_back(node: &OwnedFd, needed: u32) -> io::Result<()> {
    let mode = rustix::fs::fstat(node)?.st_mode & 0o777 | needed;
    fs::set_permissions(format!("/proc/self/fd/{}", node.as_raw_fd()), Permissions::from_mode(mode))
}

fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mut value = [0; 8];
    let mut read = || getxattr(path.as_str(), OPAQUE, &mut value).map(|length| length == 1);
    let mut result = read();
    if result == Err(Errno::ACCESS) {
        give_back(directory, 0o700)?;
        result = read();
    }
    match result {
        Ok(true) => Ok(value[0] == b'y'),
        Ok(false) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The parts of a relative path; none if it is absolute.
fn parts_of(path: &Path) -> Option<impl Iterator<Item = OsString> + '_> {
    let is_part = |part: &Component| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.is_relative().then(|| path.components().filter(is_part).map(|part| part.as_os_str().to_owned()))
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// Whether it stands for nothing at all.
fn is_nothing(stat: &Stat) -> bool {
    is(stat, FileType::CharacterDevice) && stat.st_rdev == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, XattrFlags, mknodat, setxattr};
    use std::{fs, os::unix::fs::symlink};

    /// Three layers: files that are named for where they are, and what hides some of them.
    fn layers() -> (tempfile::TempDir, Merged) {
        let directory = tempfile::tempdir().unwrap();
        let path = |path: &str| directory.path().join(path);
        for file in [
            "0/both/own",
            "0/opaque/new",
            "0/file",
            "1/both/middle",
            "1/opaque/old",
            "1/gone/under",
            "2/both/low",
            "2/both/hidden",
            "2/opaque/older",
            "2/file/below",
            "2/gone/low",
            "2/dir/x",
            "2/anew/low",
        ] {
            fs::create_dir_all(path(file).parent().unwrap()).unwrap();
            fs::write(path(file), file).unwrap();
        }
        fs::create_dir(path("0/anew")).unwrap();
        for nothing in ["0/gone", "1/both/hidden", "1/anew"] {
            mknodat(CWD, path(nothing), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        setxattr(path("0/opaque"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        for (link, target) in
            [("0/up", "../../etc"), ("0/away", "/etc"), ("1/to", "both/../dir"), ("0/loop", "loop")]
        {
            symlink(target, path(link)).unwrap();
        }
        let open = |layer: &str| {
            rustix::fs::open(path(layer), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
        };
        let layers = ["0", "1", "2"].map(open);
        (directory, Merged::top(&layers).unwrap())
    }

    #[test]
    fn what_is_above_wins_and_what_is_hidden_is_not_found() {
        let (_directory, top) = layers();
        let read = |path: &str| match top.find(Path::new(path)).unwrap() {
            Some(Node::Leaf(leaf)) if is(&leaf.stat, FileType::Symlink) => "link".to_owned(),
            Some(Node::Leaf(leaf)) => std::io::read_to_string(fs::File::from(leaf.open().unwrap())).unwrap(),
            Some(Node::Directory(directory, _)) => {
                let names = directory.list().unwrap();
                names.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>().join(" ")
            }
            None => "-".to_owned(),
        };
        for (path, expected) in [
            ("", "anew away both dir file loop opaque to up"),
            ("both", "low middle own"),
            ("both/own", "0/both/own"),
            ("both/low", "2/both/low"),
            ("both/hidden", "-"),
            ("opaque", "new"),
            ("opaque/old", "-"),
            ("file", "0/file"),
            ("file/below", "-"),
            ("gone", "-"),
            ("gone/low", "-"),
            ("anew", ""),
            ("to", "link"),
            ("to/x", "2/dir/x"),
            ("up", "link"),
            ("up/passwd", "-"),
            ("away/passwd", "-"),
            ("loop/x", "-"),
            ("both/../../x", "-"),
            ("both/../file", "0/file"),
        ] {
            assert_eq!(read(path), expected, "`{path}`");
        }
    }
}
