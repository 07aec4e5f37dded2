//! What the next run finds at `/tmp`, `/dev/shm` and `/dev/pts`: nothing. Each is a file system of its own, mounted in
//! the root that runs have in common, of which each run has a copy. To make one costs many times what it takes to see that
//! it is as it was when it was new; it is replaced unless it is.

use super::{Failure, Step, mounts};
use nix::mount::MsFlags;
use rustix::{
    fs::{Mode, OFlags, RawDir, SeekFrom, fstat, fstatfs, open, openat, seek},
    io::Errno,
};
use std::{mem::MaybeUninit, os::fd::OwnedFd, path::Path};

/// The three of them, in the mount namespace in which they were mounted.
#[derive(Debug)]
pub struct Scratch {
    most: Option<u64>,
    places: [Place; 2],
    terminals: Terminals,
}

/// A file system in memory, and what it looked like when it was new.
#[derive(Debug)]
struct Place {
    root: OwnedFd,
    new: Look,
}

/// What something changes that is made or removed there, or done to the root itself: times of the last change and size of
/// the root; free blocks and inodes.
type Look = ([i64; 4], i64, [u64; 2]);

/// Pseudo terminals: their numbers are given out anew once they are closed, so all that there can be is one that is open.
#[derive(Debug)]
struct Terminals {
    root: OwnedFd,
    /// The node that makes them, and its times, which reading and writing there change.
    maker: OwnedFd,
    new: [i64; 6],
}

const TERMINALS: &str = "/dev/pts";

impl Scratch {
    /// Mounts them, with room for so many bytes in each. To be called where the root is the one that runs have in common.
    pub fn mount(most: Option<u64>) -> Result<Self, Failure> {
        let places = [Place::mount("/tmp", most)?, Place::mount("/dev/shm", most)?];
        Ok(Self { most, places, terminals: Terminals::mount()? })
    }

    /// Whether the next run, with room for so many bytes, may have them.
    pub fn is_new(&self, most: Option<u64>) -> bool {
        self.most == most
            && self.places.iter().all(|place| place.is_new().unwrap_or(false))
            && self.terminals.are_new().unwrap_or(false)
    }

    /// Mounts others in their place, where they were mounted.
    pub fn renew(&mut self, most: Option<u64>) -> Result<(), Failure> {
        for place in [TERMINALS, "/dev/shm", "/tmp"] {
            mounts::detach(Path::new(place))?;
        }
        *self = Self::mount(most)?;
        Ok(())
    }
}

impl Place {
    fn mount(path: &'static str, most: Option<u64>) -> Result<Self, Failure> {
        let size = most.map_or(String::new(), |most| format!(",size={}", most.max(1)));
        // Without times of access of directories: looking leaves no trace.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NODIRATIME;
        mounts::fresh("tmpfs", Path::new(path), flags, &format!("mode=1777{size}"))?;
        let look_at = || -> Result<Self, Errno> {
            let root = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let new = look(&root)?;
            Ok(Self { root, new })
        };
        look_at().step(|| format!("look at `{path}`"))
    }

    fn is_new(&self) -> Result<bool, Errno> {
        Ok(look(&self.root)? == self.new)
    }
}

fn look(root: &OwnedFd) -> Result<Look, Errno> {
    let (found, room) = (fstat(root)?, fstatfs(root)?);
    let times = [found.st_mtime, found.st_mtime_nsec as i64, found.st_ctime, found.st_ctime_nsec as i64];
    Ok((times, found.st_size, [room.f_bfree, room.f_ffree]))
}

impl Terminals {
    fn mount() -> Result<Self, Failure> {
        let options = "newinstance,ptmxmode=0666,mode=620";
        mounts::fresh("devpts", Path::new(TERMINALS), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, options)?;
        let look_at = || -> Result<Self, Errno> {
            let root = open(TERMINALS, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let maker = openat(&root, "ptmx", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let new = times(&maker)?;
            Ok(Self { root, maker, new })
        };
        look_at().step(|| format!("look at `{TERMINALS}`"))
    }

    fn are_new(&self) -> Result<bool, Errno> {
        seek(&self.root, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut entries = RawDir::new(&self.root, &mut buffer);
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b".." | b"ptmx") {
                return Ok(false);
            }
        }
        Ok(times(&self.maker)? == self.new)
    }
}

fn times(of: &OwnedFd) -> Result<[i64; 6], Errno> {
    let found = fstat(of)?;
    Ok([
        found.st_atime,
        found.st_atime_nsec as i64,
        found.st_mtime,
        found.st_mtime_nsec as i64,
        found.st_ctime,
        found.st_ctime_nsec as i64,
    ])
}
