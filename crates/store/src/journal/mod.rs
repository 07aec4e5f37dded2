//! The journal of a cache that is owed to another one: which blobs and action results are to be uploaded, durably, so
//! that a write may be acknowledged before the upload and nothing acknowledged is lost.
//!
//! [`Journal::add`] returns when an entry is on disk: one thread writes and syncs, many entries at a time. [`Journal::done`]
//! takes one off, without waiting: what is not known to be done after a crash is done again, which harms nobody. What
//! the entries mean, in which order they are paid and who holds the blobs meanwhile is left to the companion.

mod book;
mod entry;

pub use entry::{Owed, OwedEntry};

use crate::framed;
use book::Book;
use bytes::Bytes;
use mortar_model::{Error, InstanceName, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// What the file begins with.
const HEADER: &[u8; 18] = b"mortar journal 1\n\n";
/// The name of the file.
const NAME: &str = "journal";
/// How long entries wait for others when more are sure to come: those that came while the disk was busy.
const GATHER: Duration = Duration::from_micros(200);

/// One journal. Dropping it writes what waits.
pub struct Journal {
    shared: Arc<Shared>,
    last: AtomicU64,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<Line>,
    over: bool,
}

/// What is to be written.
enum Line {
    Added { number: u64, entry: Vec<u8>, durable: oneshot::Sender<io::Result<()>> },
    Done(u64),
}

impl Journal {
    /// Reads the journal in `directory`, which is made where it is absent, and goes on there. With all that is owed, in
    /// the order in which it came.
    pub fn open(directory: &Path) -> Result<(Self, Vec<OwedEntry>)> {
        let failed = |error| Error::io(format!("opening the journal in `{}`", directory.display()), error);
        fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.join(NAME);
        let open = match fs::read(&path) {
            Ok(bytes) => replay(&path, Bytes::from(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(error)),
        };
        let book = Book::create(path, &open).map_err(failed)?;
        let last = open.keys().next_back().copied().unwrap_or_default();
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        let writer = std::thread::Builder::new().name("journal".into()).spawn(move || write(&ours, book));
        let writer = Some(writer.map_err(failed)?);
        let owed = open.into_values().filter_map(|bytes| OwedEntry::decode(bytes).ok()).collect();
        Ok((Self { shared, last: AtomicU64::new(last), writer }, owed))
    }

    /// A number for an entry, higher than all before.
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The highest number that was given so far.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Keeps an entry under a number that was given for it; durable when this returns.
    pub async fn add(&self, number: u64, instance: &InstanceName, owed: &Owed) -> Result<()> {
        let entry = entry::encode(number, instance, owed);
        let (durable, written) = oneshot::channel();
        self.push(Line::Added { number, entry, durable });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::io("writing the journal", error)),
            Err(_) => {
                let message = "the journal is closed".into();
                Err(Error::new(Kind::Unavailable { message, retry_after: None }))
            }
        }
    }

    /// The entry of this number need not be kept any longer.
    pub fn done(&self, number: u64) {
        self.push(Line::Done(number));
    }

    fn push(&self, line: Line) {
        let mut waiting = self.shared.waiting.lock();
        let first = waiting.lines.is_empty();
        waiting.lines.push(line);
        drop(waiting);
        if first {
            self.shared.news.notify_one();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.waiting.lock().over = true;
        self.shared.news.notify_one();
        if let Some(writer) = self.writer.take() {
            // It says itself what went wrong.
            let _ = writer.join();
        }
    }
}

/// The entries that are not done at the end of a file. A last one that was not written to its end is none.
fn replay(path: &Path, bytes: Bytes) -> BTreeMap<u64, Bytes> {
    let mut open = BTreeMap::new();
    if !bytes.starts_with(HEADER) {
        tracing::warn!("`{}` is no journal of this release; it is begun anew", path.display());
        return open;
    }
    let mut rest = bytes.slice(HEADER.len()..);
    while let Some(entry) = framed::unframe(&mut rest) {
        match entry::numbers(&entry) {
            Some((number, true)) => drop(open.insert(number, entry)),
            Some((number, false)) => drop(open.remove(&number)),
            None => tracing::warn!("an entry of `{}` is passed over: it makes no sense", path.display()),
        }
    }
    if !rest.is_empty() {
        tracing::info!(bytes = rest.len(), "`{}` ends in the middle of an entry", path.display());
    }
    open
}

/// Writes until the journal is dropped.
fn write(shared: &Shared, mut book: Book) {
    loop {
        let (lines, over) = gather(shared);
        let mut told = Vec::new();
        let written = book.append(lines, &mut told);
        if let Err(error) = &written {
            tracing::error!(%error, "the journal cannot be written");
        }
        for durable in told {
            let copy =
                written.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            // Who no longer waits knows that it may be either way.
            let _ = durable.send(copy);
        }
        if over {
            return;
        }
    }
}

/// Waits for something to write, or for the end.
fn gather(shared: &Shared) -> (Vec<Line>, bool) {
    let mut waiting = shared.waiting.lock();
    let was_idle = waiting.lines.is_empty();
    while waiting.lines.is_empty() && !waiting.over {
        shared.news.wait(&mut waiting);
    }
    if !was_idle && !waiting.over {
        drop(waiting);
        std::thread::sleep(GATHER);
        waiting = shared.waiting.lock();
    }
    (std::mem::take(&mut waiting.lines), waiting.over)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
