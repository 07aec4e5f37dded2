//! Who waits for which blobs. A blob that has come wakes those who wait for it, and nobody else; while nobody waits, it
//! costs a look into an empty map.

use mortar_model::{Digest, DigestSet, Error, Kind, Result};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Executions that wait at the same time.
const MOST_WAITERS: usize = 10_000;
/// Blobs that their actions name, as far as they were looked for, each counted for each of them: some 50 MiB.
const MOST_NAMED: usize = 250_000;

/// The blobs that are waited for. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Arrivals(Arc<Inner>);

#[derive(Default)]
struct Inner {
    book: Mutex<Book>,
    closing: CancellationToken,
}

#[derive(Default)]
struct Book {
    waiters: usize,
    named: usize,
    awaited: usize,
    by_digest: HashMap<Digest, Vec<Arc<Waiter>>>,
}

/// What has come for one who waits.
#[derive(Default)]
struct Waiter {
    came: Mutex<Vec<Digest>>,
    bell: Notify,
}

impl Arrivals {
    /// A blob can be read from now on.
    pub(super) fn tell(&self, digest: Digest) {
        let waiters = {
            let mut book = self.0.book.lock();
            let waiters = book.by_digest.remove(&digest).unwrap_or_default();
            book.awaited -= waiters.len();
            waiters
        };
        for waiter in waiters {
            waiter.came.lock().push(digest);
            waiter.bell.notify_one();
        }
    }

    /// Begins to wait, for nothing yet; none if too many do already.
    pub(super) fn wait(&self) -> Option<Waiting> {
        let mut book = self.0.book.lock();
        if book.waiters >= MOST_WAITERS {
            return None;
        }
        book.waiters += 1;
        Some(Waiting { arrivals: self.clone(), waiter: Arc::default(), named: 0, awaited: HashSet::new() })
    }

    /// Ends all waiting, now and later: the server stops.
    pub(crate) fn close(&self) {
        self.0.closing.cancel();
    }

    /// How many executions wait.
    pub(crate) fn waiters(&self) -> u64 {
        self.0.book.lock().waiters as u64
    }

    /// Whether a blob is waited for.
    #[cfg(test)]
    pub(super) fn awaits(&self, digest: &Digest) -> bool {
        self.0.book.lock().by_digest.contains_key(digest)
    }

    /// For how much they wait: as it is counted, and as it is.
    #[cfg(test)]
    pub(super) fn awaited(&self) -> (usize, usize) {
        let book = self.0.book.lock();
        assert!(book.waiters > 0 || book.named == 0);
        (book.awaited, book.by_digest.values().map(Vec::len).sum())
    }
}

/// One who waits. Dropping it leaves nothing behind.
pub(super) struct Waiting {
    arrivals: Arrivals,
    waiter: Arc<Waiter>,
    /// How much its action names by now.
    named: usize,
    /// What has not come yet.
    awaited: HashSet<Digest>,
}

impl Waiting {
    /// Waits for these as well, from now on: who looks for them afterwards misses none. `named` is how much is known of
    /// the action by now. Nothing if that is too much, with all others.
    pub(super) fn add(&mut self, digests: Vec<Digest>, named: usize) -> Option<DigestSet> {
        let new: DigestSet = digests.into_iter().collect();
        let mut book = self.arrivals.0.book.lock();
        let others = book.named - self.named;
        if others + named > MOST_NAMED {
            return None;
        }
        self.named = named;
        book.named = others + named;
        book.awaited += new.len();
        for digest in new.iter() {
            book.by_digest.entry(digest).or_default().push(self.waiter.clone());
        }
        drop(book);
        self.awaited.extend(new.iter());
        Some(new)
    }

    /// What has come since the last time; waits until something has.
    pub(super) async fn next(&mut self) -> Result<Vec<Digest>> {
        loop {
            let came = std::mem::take(&mut *self.waiter.came.lock());
            if !came.is_empty() {
                for digest in &came {
                    self.awaited.remove(digest);
                }
                return Ok(came);
            }
            tokio::select! {
                () = self.waiter.bell.notified() => {}
                () = self.arrivals.0.closing.cancelled() => {
                    let message = "the server stops, and waits no longer for inputs".to_owned();
                    return Err(Error::new(Kind::Unavailable { message, retry_after: None }));
                }
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut guard = self.arrivals.0.book.lock();
        let book = &mut *guard;
        book.waiters -= 1;
        book.named -= self.named;
        for digest in &self.awaited {
            // What has come meanwhile is not there any more.
            let Some(waiters) = book.by_digest.get_mut(digest) else { continue };
            let before = waiters.len();
            waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
            book.awaited -= before - waiters.len();
            if waiters.is_empty() {
                book.by_digest.remove(digest);
            }
        }
    }
}
