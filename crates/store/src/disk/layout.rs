//! Where things lie in the store's directory, and who may open it.
//!
//! ```text
//! FORMAT            what this directory is, in which version; the secret of its checksums, twice
//! lock              locked (flock) by the one process that owns the directory; holds its process id
//! CHECKPOINT        how far the index is durable (`checkpoint`)
//! index/NN          the index (`table`), and the uses of its entries (NN.uses)
//! segments/NNNNNNNN records (`segments`, `frame`)
//! blobs/sha256/ab/ab…       a large blob as it is, named by its hash, in one of 256 directories
//! blobs/sha256/ab/ab….zst   a large blob as a seekable zstd file
//! blobs/blake3/ab/ab…       likewise
//! made/RUN/ab…      files made of other blobs by one run (`made`); those of other runs are rubbish
//! uploads/BOOT/…    what was sent of unfinished uploads (`uploads`)
//! tmp/RUN/N         unfinished files of one run; those of other runs are rubbish
//! quarantine/       what was found damaged, newest only
//! ```

use super::{key::Key, medium::Medium};
use mortar_model::{Encoding, Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};
use xxhash_rust::xxh3::xxh3_64;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT: &str = "mortar-store 2";
const FIRST_FORMAT: &str = "mortar-store 1";
const OLD: &str = "old";
const SECRET: &str = "secret ";
/// Bytes of what tells the secret.
const SECRET_LINE: usize = SECRET.len() + 16 + 1 + 16;
const LOCK_FILE: &str = "lock";
const DIRECTORIES: [&str; 8] =
    ["blobs/sha256", "blobs/blake3", "segments", "index", "tmp", "made", "uploads", "quarantine"];
/// A process that was just killed may hold its lock for some moments more.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// The directory, opened and owned.
pub(super) struct Layout {
    root: PathBuf,
    run: String,
    boot: String,
    secret: u64,
    next_temp: AtomicU64,
    _lock: File,
}

impl Layout {
    /// Takes hold of a directory, which is made if it does not exist. One that is not a store of this version, or
    /// that another process owns, is left as it is.
    pub fn open(root: &Path, medium: &Medium) -> Result<Self> {
        let refuse = |action: &str, error| Error::io(format!("{action} `{}`", root.display()), error);
        fs::create_dir_all(root).map_err(|error| refuse("creating the store's directory", error))?;
        inspect(root)?;
        let lock = lock(root)?;
        let known = inspect(root)?;
        if known == Found::First {
            set_aside(root).map_err(|error| refuse("setting the old store aside in", error))?;
        }
        let secret = if let Found::Current(secret) = known { secret } else { new_secret() };
        let layout = Self {
            root: root.into(),
            run: run_name(),
            boot: boot_name(),
            secret,
            next_temp: AtomicU64::new(0),
            _lock: lock,
        };
        let make = || -> io::Result<()> {
            for directory in DIRECTORIES {
                fs::create_dir_all(root.join(directory))?;
            }
            fs::create_dir_all(root.join("tmp").join(&layout.run))?;
            fs::create_dir_all(root.join("made").join(&layout.run))?;
            fs::create_dir_all(layout.uploads())?;
            if known != Found::Current(secret) {
                medium.replace(
                    &root.join(FORMAT_FILE),
                    format!("{FORMAT}\n{0}\n{0}\n", secret_line(secret)).as_bytes(),
                )?;
            }
            medium.sync_directory(&root.join("blobs"))?;
            medium.sync_directory(root)
        };
        make().map_err(|error| refuse("writing to the store's directory", error))?;
        Ok(layout)
    }

    /// What checksums of this store begin with.
    pub fn secret(&self) -> u64 {
        self.secret
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file of a blob lies in this encoding.
    pub fn blob_path(&self, key: Key, encoding: Encoding) -> PathBuf {
        let hex = key.hex();
        let mut path = self.root.join("blobs");
        path.push(key.space.name());
        path.push(&hex[..2]);
        path.push(match encoding {
            Encoding::Identity => hex,
            Encoding::Zstd => format!("{hex}.zst"),
        });
        path
    }

    /// Where a file lies that is made of a blob.
    pub fn made_path(&self, key: Key) -> PathBuf {
        self.root.join("made").join(&self.run).join(format!("{}-{}", key.space.name(), key.hex()))
    }

    /// Where uploads are that outlive the process, but not the machine's run.
    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads").join(&self.boot)
    }

    /// What is left of a store of the first format.
    pub fn old(&self) -> PathBuf {
        self.root.join(OLD)
    }

    pub fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("CHECKPOINT")
    }

    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// A name for an unfinished file that was not given out before.
    pub fn temp_path(&self) -> PathBuf {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(&self.run).join(number.to_string())
    }

    /// What earlier runs left unfinished.
    pub fn rubbish(&self) -> Vec<PathBuf> {
        let of = |directory: &str| fs::read_dir(self.root.join(directory)).into_iter().flatten().flatten();
        let entries = of("tmp").chain(of("made")).chain(of("uploads"));
        let ours = |name: &OsStr| name == &*self.run || name == &*self.boot;
        entries.filter(|entry| !ours(&entry.file_name())).map(|entry| entry.path()).collect()
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // Only when empty; otherwise the next run clears it.
        for directory in ["tmp", "made"] {
            let _ = fs::remove_dir(self.root.join(directory).join(&self.run));
        }
    }
}

/// What a directory holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing, or a first start that was cut short.
    Nothing,
    /// A store of the first format.
    First,
    /// A store of this format, and its secret.
    Current(u64),
}

/// Moves a store of the first format out of the way. May be cut short and done again.
fn set_aside(root: &Path) -> io::Result<()> {
    let old = root.join(OLD);
    fs::create_dir_all(&old)?;
    for part in ["blobs", "results", "values"] {
        // What has moved already has left at most an empty directory of the new store's.
        if root.join(part).exists() && !old.join(part).exists() {
            fs::rename(root.join(part), old.join(part))?;
        }
    }
    File::open(&old)?.sync_all()?;
    File::open(root)?.sync_all()
}

/// What `root` holds; an error if that is something else.
fn inspect(root: &Path) -> Result<Found> {
    let failed = |error| Error::io(format!("reading the store's directory `{}`", root.display()), error);
    let refuse = |message: String| Err(Error::new(Kind::FailedPrecondition { message }));
    match fs::read(root.join(FORMAT_FILE)) {
        Ok(format) => {
            let text = String::from_utf8_lossy(&format);
            let mut lines = text.lines();
            let (found, root) = (lines.next().unwrap_or_default(), root.display());
            if found == FIRST_FORMAT {
                return Ok(Found::First);
            }
            if found != FORMAT {
                let found = found.chars().take(40).collect::<String>();
                return refuse(format!(
                    "`{root}` holds a store of the format `{found}`; this version reads `{FORMAT}`"
                ));
            }
            return match text
                .match_indices(SECRET)
                .find_map(|(at, _)| parse_secret(text.get(at..at + SECRET_LINE)?))
            {
                Some(secret) => Ok(Found::Current(secret)),
                None => refuse(format!("`{root}/{FORMAT_FILE}` is damaged: it names no secret")),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // What a first start that was cut short leaves, and what a file system of its own starts with.
        let ours = [
            "lock",
            "FORMAT.new",
            "blobs",
            "segments",
            "index",
            "tmp",
            "made",
            "uploads",
            "quarantine",
            "lost+found",
        ];
        if !ours.iter().any(|known| name == *known) {
            let (root, name) = (root.display(), name.to_string_lossy().into_owned());
            return refuse(format!("`{root}` is not empty (it holds `{name}`) and is no store of Mortar's"));
        }
    }
    Ok(Found::Nothing)
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

/// Names this run of the machine; what has no such name is taken for another run each time.
fn boot_name() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| run_name(), |id| id.trim().to_owned())
}

/// The secret and its checksum. It is written down twice: were it lost, so would be all that it vouches for.
fn secret_line(secret: u64) -> String {
    format!("{SECRET}{secret:016x} {:016x}", xxh3_64(&secret.to_le_bytes()))
}

fn parse_secret(line: &str) -> Option<u64> {
    let secret = u64::from_str_radix(line.strip_prefix(SECRET)?.split(' ').next()?, 16).ok()?;
    (line == secret_line(secret)).then_some(secret)
}

/// Random enough that nobody who sends content can foresee it.
fn new_secret() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
