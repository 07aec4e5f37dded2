//! What upstreams are known to have, so that nothing is asked twice: persistent, and trusted for a part of the lease.
//!
//! A server that calls a blob present keeps it for its lease. Of that, two thirds are trusted here: who is told by the
//! companion that a blob is there has at least the last third to use it. What was used lately is asked about again
//! before its time is over, in the background (`renew`). What turns out to be gone is forgotten at once.
//!
//! What is no longer trusted is remembered for a while as well: of a blob that an upstream once had, a client may have
//! nothing but the name, so that it must not be called missing before the upstream was asked.
//!
//! That a blob is absent is remembered too, for a minute: between the question of a client and its upload.

mod book;

use book::Book;
use mortar_model::{Clock, Digest, Result, clock::since_epoch};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Blobs that are remembered; beyond it, those go that were asked about first.
const MOST: usize = 250_000;
/// Absent ones that are remembered, and for how long.
const MOST_ABSENT: usize = 50_000;
const ABSENT_FOR: Duration = Duration::from_secs(60);
/// For how long it is remembered that a blob was there once.
const ONCE: Duration = Duration::from_secs(14 * 24 * 3600);

/// One instance of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Scope(u16);

/// When an upstream said that it has a blob, in seconds since the epoch, and for how long it said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    asked: u64,
    lease: u32,
}

impl Told {
    /// Whether that is to be trusted. A clock that was set back makes what is known useless.
    fn holds(self, now: u64) -> bool {
        self.asked <= now && now < self.asked + u64::from(self.lease) / 3 * 2
    }

    /// Whether it is worth remembering.
    fn is_recent(self, now: u64) -> bool {
        now < self.asked.saturating_add(ONCE.as_secs())
    }

    /// Whether it should be asked about again, if somebody still uses it.
    fn is_due(self, now: u64) -> bool {
        now >= self.asked + u64::from(self.lease) / 3
    }
}

/// What is known of all upstreams.
pub(crate) struct Knowledge {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct State {
    scopes: Vec<String>,
    known: HashMap<(Scope, Digest), Told>,
    absent: HashMap<(Scope, Digest), Instant>,
    /// Those of the known ones that somebody asked for since they were asked about.
    used: HashSet<(Scope, Digest)>,
    /// What the book does not have yet.
    news: Vec<News>,
}

/// What the book is told.
enum News {
    Scope(Scope, String),
    Known(Scope, Digest, Told),
    Gone(Scope, Digest),
}

impl Knowledge {
    /// What is kept in this file, which need not be there.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let now = since_epoch(clock.wall()).as_secs();
        let (book, scopes, known) = Book::open(path, now)?;
        let state = Mutex::new(State { scopes, known, ..State::default() });
        Ok(Self { clock, state, book: Mutex::new(book) })
    }

    /// The scope of an instance of an upstream.
    pub fn scope(&self, uri: &str, instance: &str) -> Scope {
        let name = format!("{uri} {instance}");
        let mut state = self.state.lock();
        if let Some(at) = state.scopes.iter().position(|known| *known == name) {
            return Scope(at as u16);
        }
        // Clients choose instance names: beyond what can be numbered, they share the last number, of which nothing is kept.
        let scope = Scope(state.scopes.len().min(usize::from(u16::MAX)) as u16);
        if scope.0 < u16::MAX {
            state.scopes.push(name.clone());
            state.news.push(News::Scope(scope, name));
        }
        scope
    }

    /// Whether a blob is there.
    pub fn knows(&self, scope: Scope, digest: Digest) -> bool {
        let (now, key) = (self.now(), (scope, digest));
        let mut state = self.state.lock();
        let knows = state.known.get(&key).is_some_and(|told| told.holds(now));
        if knows {
            state.used.insert(key);
        }
        knows
    }

    /// Whether a blob was there at some time, as far as is remembered, and is not known to be gone.
    pub fn once_knew(&self, scope: Scope, digest: Digest) -> bool {
        self.state.lock().known.contains_key(&(scope, digest))
    }

    /// An upstream said that it has these, and keeps them so long.
    pub fn note(&self, scope: Scope, digests: impl IntoIterator<Item = Digest>, lease: Duration) {
        let lease = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        let told = Told { asked: self.now(), lease };
        if scope.0 == u16::MAX || !told.holds(told.asked) {
            return;
        }
        let mut state = self.state.lock();
        for digest in digests {
            let key = (scope, digest);
            state.absent.remove(&key);
            state.used.remove(&key);
            if !digest.is_empty() && state.known.insert(key, told) != Some(told) {
                state.news.push(News::Known(scope, digest, told));
            }
        }
        state.make_room(told.asked);
    }

    /// These are not there.
    pub fn forget(&self, scope: Scope, digests: impl IntoIterator<Item = Digest>) {
        let mut state = self.state.lock();
        for digest in digests {
            state.used.remove(&(scope, digest));
            if state.known.remove(&(scope, digest)).is_some() {
                state.news.push(News::Gone(scope, digest));
            }
        }
    }

    /// An upstream said that it does not have these.
    pub fn note_absent(&self, scope: Scope, digests: impl IntoIterator<Item = Digest>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.absent.len() > MOST_ABSENT {
            state.absent.retain(|_, since| now.saturating_duration_since(*since) < ABSENT_FOR);
        }
        if state.absent.len() <= MOST_ABSENT {
            state.absent.extend(digests.into_iter().map(|digest| ((scope, digest), now)));
        }
    }

    /// Whether an upstream said lately that it does not have a blob.
    pub fn was_absent(&self, scope: Scope, digest: Digest) -> bool {
        let now = self.clock.now();
        let state = self.state.lock();
        let since = state.absent.get(&(scope, digest));
        since.is_some_and(|since| now.saturating_duration_since(*since) < ABSENT_FOR)
    }

    /// Blobs of this scope that are used and should be asked about again.
    pub fn due(&self, scope: Scope) -> Vec<Digest> {
        let now = self.now();
        let state = self.state.lock();
        let used = state.used.iter().filter(|(of, _)| *of == scope);
        let due = used.filter(|key| state.known.get(key).is_some_and(|told| told.is_due(now)));
        due.map(|(_, digest)| *digest).collect()
    }

    /// The instances that are known of an upstream.
    pub fn instances(&self, uri: &str) -> Vec<(Scope, String)> {
        let state = self.state.lock();
        let scopes = state.scopes.iter().enumerate();
        let of_it = scopes.filter_map(|(at, name)| {
            let instance = name.strip_prefix(uri)?.strip_prefix(' ')?;
            Some((Scope(at as u16), instance.to_owned()))
        });
        of_it.collect()
    }

    /// How many blobs are known of an upstream.
    pub fn count(&self, uri: &str) -> u64 {
        let scopes: HashSet<_> = self.instances(uri).into_iter().map(|(scope, _)| scope).collect();
        self.state.lock().known.keys().filter(|(scope, _)| scopes.contains(scope)).count() as u64
    }

    /// Writes down what is new. Blocks.
    pub fn save(&self) -> Result<()> {
        let mut book = self.book.lock();
        let news = std::mem::take(&mut self.state.lock().news);
        if news.is_empty() {
            return Ok(());
        }
        book.append(&news)?;
        if book.is_long() {
            let state = self.state.lock();
            let (scopes, known) = (state.scopes.clone(), state.known.clone());
            drop(state);
            book.write_anew(&scopes, &known)?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        since_epoch(self.clock.wall()).as_secs()
    }
}

impl State {
    fn make_room(&mut self, now: u64) {
        if self.known.len() <= MOST {
            return;
        }
        self.known.retain(|_, told| told.is_recent(now));
        if self.known.len() > MOST {
            let mut ages: Vec<u64> = self.known.values().map(|told| told.asked).collect();
            let (_, middle, _) = ages.select_nth_unstable(MOST / 2);
            let middle = *middle;
            let before = self.known.len();
            self.known.retain(|_, told| told.asked > middle);
            if self.known.len() == before {
                self.known.clear();
            }
        }
        let known = &self.known;
        self.used.retain(|key| known.contains_key(key));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
