//! The directories in which input roots are built: one for each process, locked while it lives, and one for each action
//! in it. What a process left that died is removed by the next one that starts.

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
    sync::atomic::{AtomicU64, Ordering},
};

/// The directory of this process.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    next: AtomicU64,
    /// Locked for as long as it is open.
    _lock: File,
}

const LOCK: &str = "lock";

impl Scratch {
    /// Makes a directory of this process in `parent`, and removes those of processes that are gone.
    pub fn open(parent: &Path) -> Result<Self> {
        let failed = |what: &str| {
            let what = format!("{what} in the work directory `{}`", parent.display());
            move |error| Error::io(what.clone(), error)
        };
        fs::create_dir_all(parent).map_err(failed("create a directory"))?;
        refuse_foreign(parent, &fs::read_dir(parent).map_err(failed("look"))?.flatten().collect::<Vec<_>>())?;
        // Nobody else may look for the dead between the making of our directory and its lock.
        let gate = File::create(parent.join(LOCK)).map_err(failed("create a lock"))?;
        wait_for_lock(&gate).map_err(failed("take a lock"))?;
        remove_stale(parent).map_err(failed("remove what was left"))?;
        let mut own = (0..).map(|n: u32| parent.join(format!("{}-{n}", std::process::id())));
        let path = own.find(|path| !path.exists()).expect("few directories of one process live");
        fs::create_dir(&path).map_err(failed("create a directory"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(failed("set permissions"))?;
        let lock = File::create(path.join(LOCK)).map_err(failed("create a lock"))?;
        wait_for_lock(&lock).map_err(failed("take a lock"))?;
        Ok(Self { path, next: AtomicU64::new(0), _lock: lock })
    }

    /// An empty directory.
    pub async fn directory(&self) -> Result<PathBuf> {
        let path = self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let made = path.clone();
        blocking(move || fs::create_dir(&made).map_err(|error| Error::io("create a work directory", error)))
            .await
            .map(|()| path)
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
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever this leaves, the next start removes.
        remove(&self.path).ok();
    }
}

/// What is here must be of our own making: most of it is about to be removed.
fn refuse_foreign(parent: &Path, entries: &[fs::DirEntry]) -> Result<()> {
    let ours = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name == LOCK || name == "lost+found" || is_of_a_process(&entry.path())
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

fn remove_stale(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        if !is_of_a_process(&path) || !path.is_dir() {
            continue;
        }
        // Whoever has no lock was killed before it could take one.
        let lock = File::open(path.join(LOCK));
        if !lock.is_ok_and(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
        }) {
            remove(&path)?;
        }
    }
    Ok(())
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

    #[test]
    fn the_dead_are_removed_and_the_living_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::open(parent.path()).unwrap();
        fs::create_dir_all(parent.path().join("1234-0/3/exec/closed/deep")).unwrap();
        fs::write(parent.path().join("1234-0/lock"), "").unwrap();
        fs::set_permissions(parent.path().join("1234-0/3/exec/closed"), Permissions::from_mode(0o0)).unwrap();
        let second = Scratch::open(parent.path()).unwrap();
        assert!(!parent.path().join("1234-0").exists());
        assert!(living.path.exists() && second.path.exists() && living.path != second.path);
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
