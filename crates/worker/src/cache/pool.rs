//! The files of the cache: one for each content and execute bit, however many directories hold it, of which each has a
//! link. Each is read-only and belongs to the worker.
//!
//! This is what is known of them; `build` makes them, each in the first directory that needs it. A file stays while
//! something uses it: when that directory goes first, the reaper moves the file to a place of its own. That is named by a
//! number, so that one on its way out is never mistaken for the one that takes its place.

use mortar_model::Digest;
use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files in directories that follow each other: so what is moved together lies together on disk.
const RUN: u64 = 4096;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
}

impl FileKey {
    /// Nobody may write to it, its owner neither.
    pub fn mode(&self) -> u32 {
        if self.is_executable { 0o555 } else { 0o444 }
    }

    /// What it takes on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.digest.size().next_multiple_of(super::BLOCK)
    }
}

/// Which files there are. The caller sees to it that one at a time has it.
#[derive(Debug)]
pub struct Pool {
    /// Where files have places of their own.
    directory: PathBuf,
    files: HashMap<FileKey, Pooled>,
    next: u64,
}

#[derive(Debug)]
struct Pooled {
    /// Where it is, or will be.
    place: Box<Path>,
    uses: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody makes it.
    Coming,
    /// It is on its way to its own place.
    Moving(Look, bool),
    /// There it is, and looked so; perhaps the store has it too.
    Ready(Look, bool),
    /// It is not to be used again: it was changed, or what it shares with the store was found damaged.
    Spoilt,
}

/// What tells whether a file was changed or replaced. Links come and go, and change nothing of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    mode: u32,
}

impl Look {
    /// How it looks now.
    pub fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), length: metadata.len(), modified, mode: metadata.mode() }
    }
}

/// What somebody who needs a file is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Link to it, if it looks so.
    Link {
        /// Where it is.
        path: Box<Path>,
        /// How it looked when it was made.
        look: Look,
        /// The store has the same file.
        is_lent: bool,
    },
    /// Make it, and say so.
    Make,
    /// Make a file of one's own: another one makes it this moment, or it is spoilt.
    Apart,
}

/// What becomes of a file of which a use was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// It stays where it is.
    Stays,
    /// It has further uses, and moves before the directory goes in which it was made.
    Moves {
        /// From here.
        from: Box<Path>,
        /// To its own place.
        to: Box<Path>,
    },
    /// That was the last use. It is to be removed from here, unless it goes with the directory.
    Goes(Option<Box<Path>>),
}

impl Pool {
    /// No files yet.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, files: HashMap::new(), next: 0 }
    }

    /// Takes a use of a file, to be given back with `release` unless it is `Apart`.
    pub fn claim(&mut self, key: FileKey) -> Claim {
        if let Some(pooled) = self.files.get_mut(&key) {
            let State::Ready(look, is_lent) = pooled.state else { return Claim::Apart };
            pooled.uses += 1;
            return Claim::Link { path: pooled.place.clone(), look, is_lent };
        }
        let place = Path::new("").into();
        self.files.insert(key, Pooled { place, uses: 1, state: State::Coming });
        Claim::Make
    }

    /// It was made here; `is_lent`: the store has the same file.
    pub fn made(&mut self, key: &FileKey, path: &Path, look: Look, is_lent: bool) {
        if let Some(pooled) = self.files.get_mut(key).filter(|pooled| pooled.state == State::Coming) {
            (pooled.place, pooled.state) = (path.into(), State::Ready(look, is_lent));
        }
    }

    /// It has moved to its own place.
    pub fn moved(&mut self, key: &FileKey, to: &Path) {
        if let Some(pooled) = self.files.get_mut(key)
            && let State::Moving(look, is_lent) = pooled.state
            && *pooled.place == *to
        {
            pooled.state = State::Ready(look, is_lent);
        }
    }

    /// Whether it is where this says. It may have moved since that was claimed.
    pub fn is_at(&self, key: &FileKey, path: &Path) -> bool {
        self.files.get(key).is_some_and(|pooled| {
            *pooled.place == *path && !matches!(pooled.state, State::Coming | State::Moving(..))
        })
    }

    /// Nobody is to use it again.
    pub fn spoil(&mut self, key: &FileKey) {
        if let Some(pooled) = self.files.get_mut(key) {
            pooled.state = State::Spoilt;
        }
    }

    /// Gives the use of a directory back that is about to go.
    pub fn release(&mut self, key: &FileKey, directory: &Path) -> Release {
        let Some(pooled) = self.files.get_mut(key) else { return Release::Stays };
        pooled.uses -= 1;
        let is_inside = pooled.place.starts_with(directory);
        if pooled.uses == 0 {
            let gone = self.files.remove(key).map(|pooled| pooled.place);
            // What was never made is nowhere.
            return Release::Goes(gone.filter(|place| !is_inside && !place.as_os_str().is_empty()));
        }
        match pooled.state {
            State::Ready(look, is_lent) if is_inside => {
                let to: Box<Path> = place(&self.directory, self.next).into();
                self.next += 1;
                let from = std::mem::replace(&mut pooled.place, to.clone());
                pooled.state = State::Moving(look, is_lent);
                Release::Moves { from, to }
            }
            _ => Release::Stays,
        }
    }
}

/// The own place of the file of a number.
fn place(directory: &Path, number: u64) -> PathBuf {
    directory.join((number / RUN).to_string()).join(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction;

    fn pool() -> (tempfile::TempDir, Pool, FileKey, Look) {
        let directory = tempfile::tempdir().unwrap();
        let look = Look::of(&std::fs::metadata(directory.path()).unwrap());
        let key = FileKey { digest: Digest::of(DigestFunction::Sha256, b"x"), is_executable: false };
        let mut pool = Pool::new(directory.path().join("files"));
        assert_eq!(pool.claim(key), Claim::Make);
        (directory, pool, key, look)
    }

    #[test]
    fn what_others_use_moves_out_of_the_directory_that_goes() {
        let (_directory, mut pool, key, look) = pool();
        assert_eq!(pool.claim(key), Claim::Apart, "it is not there yet");
        pool.made(&key, Path::new("/roots/1/a"), look, true);
        let first = Claim::Link { path: Path::new("/roots/1/a").into(), look, is_lent: true };
        assert_eq!(pool.claim(key), first);
        let Release::Moves { from, to } = pool.release(&key, Path::new("/roots/1")) else {
            panic!("the second directory still uses it");
        };
        assert_eq!(*from, *Path::new("/roots/1/a"));
        assert_eq!((pool.claim(key), pool.is_at(&key, &from)), (Claim::Apart, false));
        pool.moved(&key, &to);
        assert_eq!(pool.claim(key), Claim::Link { path: to.clone(), look, is_lent: true });
        assert_eq!(pool.release(&key, Path::new("/roots/2")), Release::Stays);
        assert_eq!(pool.release(&key, Path::new("/roots/3")), Release::Goes(Some(to)));
        assert_eq!(pool.claim(key), Claim::Make);
    }

    #[test]
    fn what_nobody_else_uses_goes_with_its_directory() {
        let (_directory, mut pool, key, look) = pool();
        assert_eq!(pool.release(&key, Path::new("/roots/1")), Release::Goes(None), "it was never made");
        assert_eq!(pool.claim(key), Claim::Make);
        pool.made(&key, Path::new("/roots/2/a"), look, false);
        assert_eq!(pool.release(&key, Path::new("/roots/2")), Release::Goes(None));
    }

    #[test]
    fn what_is_spoilt_is_not_moved_and_not_used() {
        let (_directory, mut pool, key, look) = pool();
        pool.made(&key, Path::new("/roots/1/a"), look, false);
        pool.claim(key);
        pool.spoil(&key);
        assert_eq!(pool.claim(key), Claim::Apart);
        assert_eq!(pool.release(&key, Path::new("/roots/1")), Release::Stays);
    }
}
