//! Removes what left the cache, on a thread of its own: nobody's action waits for that.

use mortar_model::{Error, Result};
use std::{
    fs, io,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

/// What to remove.
#[derive(Debug)]
pub enum Remains {
    /// A directory with all that is in it, then these files.
    Layer(PathBuf, Vec<PathBuf>),
    /// Nothing any more: the thread ends.
    End,
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
    while let Ok(Remains::Layer(directory, files)) = receiver.recv() {
        let removed = fs::remove_dir_all(&directory);
        // What failed early was never made.
        if let Err(error) = removed.or_else(unless_absent) {
            tracing::warn!(path = %directory.display(), %error, "a cached directory could not be removed");
        }
        for file in files {
            // It may never have been made. Its directory goes with the last of its files, and is made anew if need be.
            fs::remove_file(&file).ok();
            file.parent().map(fs::remove_dir);
        }
    }
}

fn unless_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
