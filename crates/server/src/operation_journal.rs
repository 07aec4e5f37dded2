//! The operations that wait and run, in a file of the server's directory, so that a server that was restarted takes them
//! up under their names. See docs/decisions/0011.
//!
//! Entries are appended by a thread of its own, many in one write, synced once a second: nobody waits for it. What is
//! lost with a machine that loses power is an operation that its client asks for again.

use bytes::Bytes;
use mortar_model::{Context, Error, ExecuteRequest, Result, context};
use mortar_services::{OperationJournal, Resumed};
use mortar_wire::journal::{self, Entry};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use xxhash_rust::xxh3::xxh3_64;

/// What the file begins with.
const HEADER: &[u8; 20] = b"mortar operations 1\n";
/// Before each entry: its length, then its checksum, both as four bytes, the least first.
const FRAME: usize = 8;
/// Longer entries are none.
const LONGEST: usize = 1 << 20;
/// How long entries are gathered for one write.
const GATHER: Duration = Duration::from_millis(5);
/// How often what was written is synced.
const SYNC: Duration = Duration::from_secs(1);
/// Entries that wait for the disk; those of operations beyond it are not kept.
const WAITING: usize = 200_000;
/// A file smaller than this is not written anew, however little of it is of use.
const SMALL: u64 = 4 << 20;

/// The journal of one server. Dropping it writes what waits.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    last: AtomicU64,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

/// The operation's number, what is told of it, and the frame that tells it.
type Framed = (u64, Kind, Vec<u8>);

#[derive(Default)]
struct Waiting {
    entries: Vec<Framed>,
    dropped: u64,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Begun,
    Started,
    Ended,
}

impl Journal {
    /// Reads what is in `directory`, which is made where it is absent, and goes on there.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Vec<Resumed>)> {
        let failed = |error| {
            Error::io(format!("opening the journal of operations in `{}`", directory.display()), error)
        };
        fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.join("operations");
        let open = match fs::read(&path) {
            Ok(bytes) => read(&path, Bytes::from(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut book = Book::create(path, &open).map_err(failed)?;
        let last = open.keys().next_back().copied().unwrap_or_default();
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        let writer =
            std::thread::Builder::new().name("operations".into()).spawn(move || write(&ours, &mut book));
        let writer = Some(writer.map_err(failed)?);
        let resumed = open.into_iter().map(|(number, open)| open.resumed(number)).collect();
        Ok((Self { shared, last: AtomicU64::new(last), writer }, resumed))
    }

    fn add(&self, number: u64, kind: Kind, entry: &Entry) {
        let bytes = frame(&journal::to_bytes(number, entry));
        let mut waiting = self.shared.waiting.lock();
        if waiting.entries.len() >= WAITING && kind != Kind::Ended {
            waiting.dropped += 1;
            return;
        }
        let first = waiting.entries.is_empty();
        waiting.entries.push((number, kind, bytes));
        drop(waiting);
        if first {
            self.shared.news.notify_one();
        }
    }
}

impl OperationJournal for Journal {
    fn begun(&self, context: &Context, request: &ExecuteRequest) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.add(number, Kind::Begun, &Entry::Begun(context.clone(), request.clone()));
        number
    }

    fn started(&self, number: u64) {
        self.add(number, Kind::Started, &Entry::Started);
    }

    fn ended(&self, number: u64) {
        self.add(number, Kind::Ended, &Entry::Ended);
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

/// An operation that had not ended.
struct Open {
    context: Context,
    request: ExecuteRequest,
    started: bool,
}

impl Open {
    fn resumed(self, number: u64) -> Resumed {
        let name =
            self.context.operation.as_ref().map(|operation| operation.name.clone()).unwrap_or_default();
        let operation = context::Operation { name, was_running: self.started, ..Default::default() };
        let context = Context { operation: Some(Arc::new(operation)), ..self.context };
        Resumed { number, context, request: self.request }
    }
}

/// What is open at the end of a file. A last entry that was not written to its end is none.
fn read(path: &Path, bytes: Bytes) -> BTreeMap<u64, Open> {
    let mut open = BTreeMap::new();
    if !bytes.starts_with(HEADER) {
        tracing::warn!("`{}` is no journal of operations of this release; it is begun anew", path.display());
        return open;
    }
    let mut rest = bytes.slice(HEADER.len()..);
    while let Some(entry) = unframe(&mut rest) {
        match journal::from_bytes(entry) {
            Ok((number, Entry::Begun(context, request))) => {
                open.insert(number, Open { context, request, started: false });
            }
            Ok((number, Entry::Started)) => {
                open.entry(number).and_modify(|open| open.started = true);
            }
            Ok((number, Entry::Ended)) => drop(open.remove(&number)),
            Err(error) => tracing::warn!("an entry of `{}` is passed over: {error}", path.display()),
        }
    }
    if !rest.is_empty() {
        tracing::info!(bytes = rest.len(), "`{}` ends in the middle of an entry", path.display());
    }
    open
}

fn frame(entry: &[u8]) -> Vec<u8> {
    let length = u32::try_from(entry.len()).expect("entries are far shorter than 4 GiB");
    let mut framed = Vec::with_capacity(FRAME + entry.len());
    framed.extend(length.to_le_bytes());
    framed.extend(checksum(entry).to_le_bytes());
    framed.extend(entry);
    framed
}

/// The next entry, if it is whole.
fn unframe(rest: &mut Bytes) -> Option<Bytes> {
    let number = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
    let (length, sum) = (number(0)? as usize, number(4)?);
    let entry = rest.get(FRAME..FRAME.checked_add(length).filter(|_| length <= LONGEST)?)?;
    if checksum(entry) != sum {
        return None;
    }
    let entry = rest.slice(FRAME..FRAME + length);
    *rest = rest.slice(FRAME + length..);
    Some(entry)
}

/// The lower half of the hash.
fn checksum(entry: &[u8]) -> u32 {
    xxh3_64(entry) as u32
}

/// The file, and where in it the open operations are.
struct Book {
    path: PathBuf,
    file: File,
    length: u64,
    open: HashMap<u64, Place>,
    /// The bytes of the open ones.
    live: u64,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    length: u32,
    started: bool,
}

impl Book {
    /// A file that holds these and nothing else, in place of what there is.
    fn create(path: PathBuf, open: &BTreeMap<u64, Open>) -> io::Result<Self> {
        let entries = open.iter().flat_map(|(number, open)| {
            let begun = Entry::Begun(open.context.clone(), open.request.clone());
            let begun = (*number, Kind::Begun, frame(&journal::to_bytes(*number, &begun)));
            let started = open
                .started
                .then(|| (*number, Kind::Started, frame(&journal::to_bytes(*number, &Entry::Started))));
            [Some(begun), started].into_iter().flatten()
        });
        Self::of(path, entries.collect())
    }

    fn of(path: PathBuf, entries: Vec<Framed>) -> io::Result<Self> {
        let fresh = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(&fresh)?;
        file.write_all(HEADER)?;
        let (open, length) = (HashMap::new(), HEADER.len() as u64);
        let mut book = Self { path, file, length, open, live: 0 };
        book.append(entries)?;
        book.file.sync_data()?;
        fs::rename(&fresh, &book.path)?;
        if let Some(directory) = book.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(book)
    }

    fn append(&mut self, entries: Vec<Framed>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (number, kind, entry) in entries {
            let (offset, length) = (self.length + bytes.len() as u64, entry.len() as u32);
            match kind {
                Kind::Begun => {
                    self.live += u64::from(length);
                    self.open.insert(number, Place { offset, length, started: false });
                }
                Kind::Started => {
                    if let Some(place) = self.open.get_mut(&number) {
                        place.started = true;
                    }
                }
                Kind::Ended => {
                    // Of what was never kept, nothing needs to be told.
                    let Some(place) = self.open.remove(&number) else { continue };
                    self.live -= u64::from(place.length);
                }
            }
            bytes.extend(entry);
        }
        self.file.write_all(&bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes the file anew where most of it is of no use any more.
    fn compact(&mut self) -> io::Result<()> {
        if self.length < SMALL || self.length / 4 < self.live {
            return Ok(());
        }
        let mut open: Vec<_> = self.open.iter().map(|(number, place)| (*number, *place)).collect();
        open.sort_unstable_by_key(|(number, _)| *number);
        let mut entries = Vec::with_capacity(open.len());
        for (number, place) in open {
            let mut entry = vec![0; place.length as usize];
            self.file.read_exact_at(&mut entry, place.offset)?;
            entries.push((number, Kind::Begun, entry));
            if place.started {
                entries.push((number, Kind::Started, frame(&journal::to_bytes(number, &Entry::Started))));
            }
        }
        *self = Self::of(self.path.clone(), entries)?;
        Ok(())
    }
}

/// Writes until the journal is dropped.
fn write(shared: &Shared, book: &mut Book) {
    let (mut unsynced, mut failed) = (None, false);
    loop {
        let (entries, dropped, over) = gather(shared, unsynced);
        if dropped > 0 {
            tracing::warn!(dropped, "the journal of operations is behind; these would not survive a restart");
        }
        let done = keep(book, without_the_short_lived(entries), &mut unsynced, over);
        match done {
            Err(error) if !failed => {
                tracing::error!(%error, "the journal of operations cannot be written; they would not survive a restart");
                failed = true;
            }
            Ok(()) => failed = false,
            Err(_) => {}
        }
        if over {
            return;
        }
    }
}

fn keep(book: &mut Book, entries: Vec<Framed>, unsynced: &mut Option<Instant>, over: bool) -> io::Result<()> {
    if !entries.is_empty() {
        book.append(entries)?;
        unsynced.get_or_insert_with(Instant::now);
        book.compact()?;
    }
    if unsynced.is_some_and(|since| over || since.elapsed() >= SYNC) {
        *unsynced = None;
        book.file.sync_data()?;
    }
    Ok(())
}

/// Waits for entries, or until something is to be synced, or the end.
fn gather(shared: &Shared, unsynced: Option<Instant>) -> (Vec<Framed>, u64, bool) {
    let mut waiting = shared.waiting.lock();
    while waiting.entries.is_empty() && !waiting.over {
        match unsynced {
            None => shared.news.wait(&mut waiting),
            Some(since) => {
                if shared.news.wait_until(&mut waiting, since + SYNC).timed_out() {
                    break;
                }
            }
        }
    }
    if !waiting.over && !waiting.entries.is_empty() {
        drop(waiting);
        std::thread::sleep(GATHER);
        waiting = shared.waiting.lock();
    }
    let dropped = std::mem::take(&mut waiting.dropped);
    (std::mem::take(&mut waiting.entries), dropped, waiting.over)
}

/// What began and ended within one batch needs no ink.
fn without_the_short_lived(mut entries: Vec<Framed>) -> Vec<Framed> {
    let begun: std::collections::HashSet<u64> =
        entries.iter().filter(|(_, kind, _)| *kind == Kind::Begun).map(|(number, ..)| *number).collect();
    let ended = entries.iter().filter(|(_, kind, _)| *kind == Kind::Ended).map(|(number, ..)| *number);
    let short: std::collections::HashSet<u64> = ended.filter(|number| begun.contains(number)).collect();
    entries.retain(|(number, ..)| !short.contains(number));
    entries
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_model::{Digest, DigestFunction, RequestMetadata};

    fn begin(journal: &Journal, name: &str) -> u64 {
        let operation = context::Operation { name: name.into(), ..Default::default() };
        let request = RequestMetadata { target_id: "t".repeat(400), ..RequestMetadata::default() };
        let context = Context {
            operation: Some(Arc::new(operation)),
            request: Arc::new(request),
            ..Context::default()
        };
        let action_digest = Digest::of(DigestFunction::Sha256, name.as_bytes());
        journal.begun(&context, &ExecuteRequest { action_digest, skip_cache_lookup: false, priority: 0 })
    }

    /// What a server that starts there would take up.
    fn open(directory: &Path) -> (Journal, Vec<(String, bool)>) {
        let (journal, resumed) = Journal::open(directory).unwrap();
        let known = resumed.into_iter().map(|resumed| {
            let operation = resumed.context.operation.unwrap();
            (operation.name.clone(), operation.was_running)
        });
        (journal, known.collect())
    }

    #[test]
    fn what_waits_and_runs_is_there_after_any_number_of_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, known) = open(directory.path());
        assert_eq!(known, []);
        let numbers: Vec<_> = ["a", "b", "c"].iter().map(|name| begin(&journal, name)).collect();
        journal.started(numbers[1]);
        journal.ended(numbers[0]);
        drop(journal);
        let expected = [("b".to_owned(), true), ("c".to_owned(), false)];
        for _ in 0..2 {
            let (journal, known) = open(directory.path());
            assert_eq!(known, expected);
            drop(journal);
        }
        let (journal, _) = open(directory.path());
        assert!(begin(&journal, "d") > numbers[2], "numbers are not used twice");
        journal.ended(numbers[1]);
        drop(journal);
        assert_eq!(open(directory.path()).1, [("c".to_owned(), false), ("d".to_owned(), false)]);
    }

    #[test]
    fn a_torn_end_costs_what_was_torn() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = open(directory.path());
        begin(&journal, "a");
        drop(journal);
        let path = directory.path().join("operations");
        let whole = fs::read(&path).unwrap();
        let (journal, _) = open(directory.path());
        begin(&journal, "b");
        drop(journal);
        let longer = fs::read(&path).unwrap();
        for length in whole.len()..longer.len() {
            fs::write(&path, &longer[..length]).unwrap();
            assert_eq!(open(directory.path()).1, [("a".to_owned(), false)], "{length}");
        }
        let mut flipped = longer.clone();
        flipped[whole.len() + FRAME + 3] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(open(directory.path()).1, [("a".to_owned(), false)]);
        fs::write(&path, "something else").unwrap();
        assert_eq!(open(directory.path()).1, []);
    }

    #[test]
    fn a_file_full_of_the_past_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = open(directory.path());
        begin(&journal, "kept");
        drop(journal);
        for _ in 0..4 {
            let (journal, known) = open(directory.path());
            assert_eq!(known, [("kept".to_owned(), false)]);
            let numbers: Vec<_> = (0..4_000).map(|_| begin(&journal, "past")).collect();
            // Those and these are of different batches, or they would not be written at all.
            let written = || fs::metadata(directory.path().join("operations")).unwrap().len() > 1 << 20;
            let deadline = Instant::now() + Duration::from_secs(30);
            while !written() {
                assert!(Instant::now() < deadline, "nothing is written");
                std::thread::yield_now();
            }
            numbers.iter().for_each(|number| journal.ended(*number));
            drop(journal);
            assert!(fs::metadata(directory.path().join("operations")).unwrap().len() < SMALL + (1 << 20));
        }
    }

    #[test]
    fn what_ends_at_once_is_not_written() {
        let entries =
            |kinds: &[(u64, Kind)]| kinds.iter().map(|(number, kind)| (*number, *kind, vec![])).collect();
        let all =
            [(1, Kind::Begun), (2, Kind::Begun), (1, Kind::Started), (1, Kind::Ended), (3, Kind::Ended)];
        let left = without_the_short_lived(entries(&all));
        assert_eq!(left, entries(&[(2, Kind::Begun), (3, Kind::Ended)]));
    }
}
