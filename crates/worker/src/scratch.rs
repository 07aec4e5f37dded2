//! The directories in which input roots are built: one for each process, locked while it lives, and one for each action
//! in it. What a process left that died is moved aside by the next one that starts, and removed while that works.

use crate::blocking::blocking;
use mortar_model::{Error, Kind, Result};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// The directory of this process.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    next: AtomicU64,
    /// Directories of runs that are over, empty again.
    idle: Mutex<Vec<PathBuf>>,
    /// Removes what was left.
    removing: Option<JoinHandle<()>>,
    /// Locked for as long as it is open.
    _lock: File,
}

const LOCK: &str = "lock";
const CACHE: &str = "cache";
/// What dead processes left, on its way out.
const REMAINS: &str = "remains";
/// Where images are, unless they are elsewhere.
const IMAGES: &str = "images";
/// What begins so is the store of a worker, or its lock.
const STORE: &str = "store-";

impl Scratch {
    /// Makes a directory of this process in `parent`, and removes those of processes that are gone.
    pub fn open(parent: &Path) -> Result<Self> {
        let failed = |what: &str| {
            let what = format!("{what} in the work directory `{}`", parent.display());
            move |error| Error::io(what.clone(), error)
        };
        check_directory(parent)?;
        // Nobody else may look for the dead between the making of our directory and its lock.
        let gate = File::create(parent.join(LOCK)).map_err(failed("create a lock"))?;
        wait_for_lock(&gate).map_err(failed("take a lock"))?;
        let mut own = (0..).map(|n: u32| parent.join(format!("{}-{n}", std::process::id())));
        let path = own.find(|path| !path.exists()).expect("few directories of one process live");
        fs::create_dir(&path).map_err(failed("create a directory"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(failed("set permissions"))?;
        let lock = File::create(path.join(LOCK)).map_err(failed("create a lock"))?;
        wait_for_lock(&lock).map_err(failed("take a lock"))?;
        let removing = remove_stale(parent, &path).map_err(failed("remove what was left"))?;
        Ok(Self { path, next: AtomicU64::new(0), idle: Mutex::default(), removing, _lock: lock })
    }

    /// An empty directory.
    pub async fn directory(&self) -> Result<PathBuf> {
        if let Some(path) = self.idle().pop() {
            return Ok(path);
        }
        let path = self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let made = path.clone();
        blocking(move || fs::create_dir(&made).map_err(|error| Error::io("create a work directory", error)))
            .await
            .map(|()| path)
    }

    /// Where cached directories are.
    pub fn cache(&self) -> PathBuf {
        self.path.join(CACHE)
    }

    /// Paths in the cache as they are reached from the directory of a run.
    pub fn seen_from_run(&self, paths: &[&Path]) -> Vec<PathBuf> {
        let seen = |path: &&Path| match path.strip_prefix(&self.path) {
            Ok(below) => Path::new("..").join(below),
            Err(_) => path.to_path_buf(),
        };
        paths.iter().map(seen).collect()
    }

    /// Removes such a directory with all that is in it.
    pub async fn remove(&self, path: PathBuf) {
        let removed = path.clone();
        let result =
            blocking(move || remove(&removed).map_err(|error| Error::io("remove a work directory", error)));
        if let Err(error) = result.await {
            tracing::warn!(path = %path.display(), %error, "a work directory could not be removed");
        }
    }

    /// Removes all that is in such a directory, and keeps it for the next run: to make and remove one takes a file system
    /// longer than all else that a small run has it do. Only for those that no command could reach or change.
    pub async fn empty(&self, path: PathBuf) {
        let emptied = path.clone();
        let result = blocking(move || {
            let failed = |error| Error::io("empty a work directory", error);
            for entry in fs::read_dir(&emptied).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let is_directory = entry.file_type().map_err(failed)?.is_dir();
                let removed =
                    if is_directory { remove(&entry.path()) } else { fs::remove_file(entry.path()) };
                removed.map_err(failed)?;
            }
            Ok(())
        });
        match result.await {
            Ok(()) => self.idle().push(path),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a work directory stays as it is"),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.idle.lock().expect("nothing panics while it holds this")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.removing.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that removes what dead processes left panicked");
        }
        // Whatever this leaves, the next start removes.
        remove(&self.path).ok();
    }
}

/// Makes the work directory if it is not there, and makes sure that nothing is in it but what workers keep there.
pub fn check_directory(directory: &Path) -> Result<()> {
    let failed = |what: &str| {
        let what = format!("{what} in the work directory `{}`", directory.display());
        move |error| Error::io(what.clone(), error)
    };
    fs::create_dir_all(directory).map_err(failed("create a directory"))?;
    let entries = fs::read_dir(directory).map_err(failed("look"))?;
    refuse_foreign(directory, &entries.flatten().collect::<Vec<_>>())
}

/// What is here must be of our own making: most of it is about to be removed.
fn refuse_foreign(parent: &Path, entries: &[fs::DirEntry]) -> Result<()> {
    let ours = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name == LOCK
            || name == "lost+found"
            || name == IMAGES
            || name.to_string_lossy().starts_with(STORE)
            || is_of_a_process(&entry.path())
    };
    let Some(foreign) = entries.iter().find(|entry| !ours(entry)) else { return Ok(()) };
    let (parent, name) = (parent.display(), foreign.file_name());
    let message = format!(
        "the work directory `{parent}` is not empty (it holds `{}`) and is none of Mortar's",
        name.to_string_lossy()
    );
    Err(Error::new(Kind::FailedPrecondition { message }).hint("choose another directory with --dir"))
}

/// Whether it is named as the directory of a process is: `PROCESS-NUMBER`.
fn is_of_a_process(path: &Path) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.split_once('-'))
        .is_some_and(|(process, number)| is_number(process) && is_number(number))
}

fn wait_for_lock(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::LockExclusive)?)
}

/// Moves what dead processes left into our own directory, which takes no time however much it is, and has a thread
/// remove it there: should we die too, the next one takes it with what we leave.
fn remove_stale(parent: &Path, own: &Path) -> io::Result<Option<JoinHandle<()>>> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        if !is_of_a_process(&path) || !path.is_dir() || path == own {
            continue;
        }
        // Whoever has no lock was killed before it could take one.
        let lock = File::open(path.join(LOCK));
        if !lock.is_ok_and(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
        }) {
            stale.push(path);
        }
    }
    if stale.is_empty() {
        return Ok(None);
    }
    let remains = own.join(REMAINS);
    fs::create_dir(&remains)?;
    for path in stale {
        fs::rename(&path, remains.join(path.file_name().unwrap_or_default()))?;
    }
    let work = move || {
        if let Err(error) = remove(&remains) {
            tracing::warn!(path = %remains.display(), %error, "what dead processes left could not be removed");
        }
    };
    std::thread::Builder::new().name("scratch-remains".into()).spawn(work).map(Some)
}

/// Removes a tree in which directories may be closed even to their owner. Links are not followed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        result => result,
    }
}

fn unlock(directory: &Path) -> io::Result<()> {
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_dead_are_removed_and_the_living_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::open(parent.path()).unwrap();
        fs::create_dir_all(parent.path().join("1234-0/3/exec/closed/deep")).unwrap();
        fs::write(parent.path().join("1234-0/lock"), "").unwrap();
        fs::set_permissions(parent.path().join("1234-0/3/exec/closed"), Permissions::from_mode(0o0)).unwrap();
        let mut second = Scratch::open(parent.path()).unwrap();
        assert!(!parent.path().join("1234-0").exists());
        assert!(living.path.exists() && second.path.exists() && living.path != second.path);
        second.removing.take().unwrap().join().unwrap();
        assert!(!second.path.join(REMAINS).exists());
        let path = living.path.clone();
        drop(living);
        assert!(!path.exists());
    }

    #[test]
    fn what_others_keep_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["photos", "12-", "-3", "a-1", "1-0-2"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            let error = Scratch::open(parent.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("it holds `{name}`")), "{error}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
            fs::remove_dir(parent.path().join(name)).unwrap();
        }
        Scratch::open(parent.path()).unwrap();
    }

    #[tokio::test]
    async fn emptied_directories_are_used_again() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(parent.path()).unwrap();
        let path = scratch.directory().await.unwrap();
        fs::create_dir_all(path.join("exec/closed/deep")).unwrap();
        fs::write(path.join("stdout"), "x").unwrap();
        symlink(parent.path(), path.join("link")).unwrap();
        fs::set_permissions(path.join("exec/closed"), Permissions::from_mode(0o0)).unwrap();
        scratch.empty(path.clone()).await;
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        let (first, second) = (scratch.directory().await.unwrap(), scratch.directory().await.unwrap());
        assert_eq!((&first, second == path), (&path, false));
        // What cannot be emptied is not used again.
        fs::remove_dir(&first).unwrap();
        scratch.empty(first.clone()).await;
        assert_ne!(scratch.directory().await.unwrap(), first);
        assert!(parent.path().exists());
    }

    #[tokio::test]
    async fn closed_directories_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(parent.path()).unwrap();
        let path = scratch.directory().await.unwrap();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::set_permissions(path.join("a"), Permissions::from_mode(0o0)).unwrap();
        scratch.remove(path.clone()).await;
        assert!(!path.exists());
    }
}
