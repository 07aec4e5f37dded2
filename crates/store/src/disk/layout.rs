//! Where things lie in the store's directory, and who may open it.
//!
//! ```text
//! FORMAT            one line: what this directory is, in which version
//! lock              locked (flock) by the one process that owns the directory; holds its process id
//! blobs/sha256/ab/ab…   a blob, named by its hash, in one of 256 directories
//! blobs/blake3/ab/ab…
//! results/ab/ab…    an action result, named by a hash of instance and key
//! values/ab/ab…     an opaque value, likewise
//! tmp/RUN/N         unfinished files of one run; those of other runs are rubbish
//! quarantine/       what was found damaged, newest only
//! ```
//!
//! What is in the files is the business of `write` and `records`.

use mortar_model::{Digest, DigestFunction, Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

const FORMAT_FILE: &str = "FORMAT";
const FORMAT: &str = "mortar-store 1\n";
const LOCK_FILE: &str = "lock";
/// A process that was just killed may hold its lock for some moments more.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// The kinds of things that are kept, each in a directory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Space {
    Sha256,
    Blake3,
    Results,
    Values,
    Producers,
    Recipes,
}

impl Space {
    pub const ALL: [Self; 6] =
        [Self::Sha256, Self::Blake3, Self::Results, Self::Values, Self::Producers, Self::Recipes];

    fn directory(self) -> &'static str {
        match self {
            Self::Sha256 => "blobs/sha256",
            Self::Blake3 => "blobs/blake3",
            Self::Results => "results",
            Self::Values => "values",
            Self::Producers => "producers",
            Self::Recipes => "recipes",
        }
    }
}

impl From<DigestFunction> for Space {
    fn from(function: DigestFunction) -> Self {
        match function {
            DigestFunction::Sha256 => Self::Sha256,
            DigestFunction::Blake3 => Self::Blake3,
        }
    }
}

/// Names one file of the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub space: Space,
    pub hash: [u8; 32],
}

impl Key {
    pub fn of(digest: Digest) -> Self {
        Self { space: digest.function().into(), hash: *digest.hash() }
    }

    pub fn hex(&self) -> String {
        // The function and size play no part in the spelling of a hash.
        Digest::new(DigestFunction::Sha256, self.hash, 0).hex()
    }
}

/// The directory, opened and owned.
pub(super) struct Layout {
    root: PathBuf,
    run: PathBuf,
    next_temp: AtomicU64,
    _lock: File,
}

impl Layout {
    /// Takes hold of a directory, which is made if it does not exist. One that is not a store of this version, or
    /// that another process owns, is left as it is.
    pub fn open(root: &Path) -> Result<Self> {
        let refuse = |action: &str, error| Error::io(format!("{action} `{}`", root.display()), error);
        fs::create_dir_all(root).map_err(|error| refuse("creating the store's directory", error))?;
        inspect(root)?;
        let lock = lock(root)?;
        let fresh = !inspect(root)?;
        let run = root.join("tmp").join(run_name());
        let make = || -> io::Result<()> {
            for space in Space::ALL {
                fs::create_dir_all(root.join(space.directory()))?;
            }
            fs::create_dir_all(root.join("quarantine"))?;
            fs::create_dir_all(&run)?;
            if fresh {
                write_durably(&run.join(FORMAT_FILE), FORMAT.as_bytes())?;
                fs::rename(run.join(FORMAT_FILE), root.join(FORMAT_FILE))?;
            }
            sync_directory(&root.join("blobs"))?;
            sync_directory(root)
        };
        make().map_err(|error| refuse("writing to the store's directory", error))?;
        Ok(Self { root: root.into(), run, next_temp: AtomicU64::new(0), _lock: lock })
    }

    pub fn path(&self, key: Key) -> PathBuf {
        let hex = key.hex();
        let mut path = self.space(key.space);
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    pub fn space(&self, space: Space) -> PathBuf {
        self.root.join(space.directory())
    }

    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// A name for an unfinished file that was not given out before.
    pub fn temp_path(&self) -> PathBuf {
        self.run.join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// What earlier runs left unfinished.
    pub fn rubbish(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join("tmp")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| *path != self.run).collect()
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // Only when empty; otherwise the next run clears it.
        let _ = fs::remove_dir(&self.run);
    }
}

/// Whether `root` holds a store already; an error if it holds something else.
fn inspect(root: &Path) -> Result<bool> {
    let failed = |error| Error::io(format!("reading the store's directory `{}`", root.display()), error);
    let refuse = |message: String| Err(Error::new(Kind::FailedPrecondition { message }));
    match fs::read(root.join(FORMAT_FILE)) {
        Ok(format) if format == FORMAT.as_bytes() => return Ok(true),
        Ok(format) => {
            let (found, root) = (String::from_utf8_lossy(&format), root.display());
            return refuse(format!(
                "`{root}` holds a store of the format `{}`; this version reads `{}`",
                found.chars().take(40).collect::<String>().trim(),
                FORMAT.trim()
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // What a first start that was cut short leaves, and what a file system of its own starts with.
        let ours =
            ["lock", "blobs", "results", "values", "producers", "recipes", "tmp", "quarantine", "lost+found"];
        if !ours.iter().any(|known| name == *known) {
            let (root, name) = (root.display(), name.to_string_lossy().into_owned());
            return refuse(format!("`{root}` is not empty (it holds `{name}`) and is no store of Mortar's"));
        }
    }
    Ok(false)
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK_FILE);
    let failed = |error| Error::io(format!("writing to the store's directory `{}`", root.display()), error);
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(error.into()));
        }
        if Instant::now() >= deadline {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            let message = format!(
                "the store's directory `{}` is in use by another process (id {})",
                root.display(),
                owner.trim()
            );
            let error = Error::new(Kind::FailedPrecondition { message });
            return Err(error.hint("stop that process, or choose another directory"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut note = || {
        file.set_len(0)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    };
    note().map_err(failed)?;
    Ok(file)
}

fn run_name() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), since.as_nanos())
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
