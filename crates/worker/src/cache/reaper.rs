//! Removes what left the cache, and moves what stays out of it before, on a thread of its own: nobody's action waits for
//! that.

use super::{Shared, pool::FileKey};
use mortar_model::{Error, Result};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

/// What to remove.
#[derive(Debug)]
pub enum Remains {
    /// A directory of this cache.
    Layer(Arc<Shared>, Leaving),
    /// Nothing any more: the thread ends.
    End,
}

/// A directory with all that is in it, but for some files; then others.
#[derive(Debug)]
pub struct Leaving {
    /// The directory.
    pub directory: PathBuf,
    /// What others use: from where and whereto it moves before.
    pub moving: Vec<(FileKey, Box<Path>, Box<Path>)>,
    /// What goes beside it.
    pub files: Vec<Box<Path>>,
}

/// The thread.
#[derive(Debug)]
pub struct Reaper {
    thread: Option<JoinHandle<()>>,
    sender: Sender<Remains>,
}

impl Reaper {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("inputs-reaper".into()).spawn(move || reap(&receiver));
        let thread = thread.map_err(|error| Error::io("starting a thread of the worker", error))?;
        Ok(Self { thread: Some(thread), sender })
    }

    /// A way to give it work.
    pub fn sender(&self) -> Sender<Remains> {
        self.sender.clone()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.sender.send(Remains::End).ok();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that removes cached directories panicked");
        }
    }
}

fn reap(receiver: &Receiver<Remains>) {
    while let Ok(Remains::Layer(shared, Leaving { directory, moving, files })) = receiver.recv() {
        for (key, from, to) in moving {
            // Where that cannot be, it is made anew by whoever needs it.
            match rename(&from, &to) {
                Ok(()) => shared.state.lock().pool.moved(&key, &to),
                Err(_) => shared.state.lock().pool.spoil(&key),
            }
        }
        let removed = fs::remove_dir_all(&directory);
        // What failed early was never made.
        if let Err(error) = removed.or_else(unless_absent) {
            tracing::warn!(path = %directory.display(), %error, "a cached directory could not be removed");
        }
        for file in files {
            // Its directory goes with the last of its files, and is made anew if need be.
            fs::remove_file(&file).ok();
            file.parent().map(fs::remove_dir);
        }
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::rename(from, to)
}

fn unless_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
