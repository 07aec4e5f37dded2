//! What an upstream's results cost: the look-up, and the time in which blobs that it led to were downloaded. Told to the
//! breaker when all of them were, or when no more come.

use futures::StreamExt;
use mortar_model::{ActionResult, Blob, Digest};
use mortar_remote::breaker::Breaker;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Who has not downloaded a blob by then will not.
const PATIENCE: Duration = Duration::from_secs(10);
/// Results that are watched at the same time.
const MOST: usize = 10_000;

#[derive(Clone)]
pub(super) struct Benefit(Arc<Mutex<Watched>>, Breaker);

#[derive(Default)]
struct Watched {
    /// The result that each blob was found by, the last one of several.
    blobs: HashMap<Digest, Arc<Hit>>,
    /// All of them, the oldest first.
    hits: VecDeque<(Instant, Vec<Digest>, std::sync::Weak<Hit>)>,
}

/// A result that was of use. Told when nobody watches it any more.
struct Hit {
    breaker: Breaker,
    result: ActionResult,
    cost: Mutex<Cost>,
}

#[derive(Clone, Copy)]
struct Cost {
    so_far: Duration,
    /// Until when it covers everything.
    until: Instant,
}

impl Drop for Hit {
    fn drop(&mut self) {
        self.breaker.hit(self.cost.lock().so_far, &self.result);
    }
}

impl Hit {
    /// Something was downloaded meanwhile. What went on at the same time counts once.
    fn took(&self, begun: Instant) {
        let (mut cost, now) = (self.cost.lock(), Instant::now());
        let since = begun.max(cost.until);
        cost.so_far += now.saturating_duration_since(since);
        cost.until = now;
    }
}

impl Benefit {
    /// Tells it to `breaker`.
    pub fn new(breaker: Breaker) -> Self {
        Self(Arc::default(), breaker)
    }

    /// A look-up gave this.
    pub fn found(&self, result: &ActionResult, took: Duration) {
        let now = Instant::now();
        let metadata = result.metadata.clone();
        let hit = Arc::new(Hit {
            breaker: self.1.clone(),
            result: ActionResult { metadata, ..ActionResult::default() },
            cost: Mutex::new(Cost { so_far: took, until: now }),
        });
        // Told when the lock is no longer held: `told` is dropped after it.
        let mut told = Vec::new();
        let mut watched = self.0.lock();
        let blobs: Vec<Digest> = result.named_blobs().into_iter().collect();
        told.extend(blobs.iter().filter_map(|digest| watched.blobs.insert(*digest, hit.clone())));
        watched.hits.push_back((now, blobs, Arc::downgrade(&hit)));
        while let Some((since, ..)) = watched.hits.front()
            && (watched.hits.len() > MOST || now.saturating_duration_since(*since) > PATIENCE)
            && let Some((_, blobs, old)) = watched.hits.pop_front()
        {
            for digest in blobs {
                if watched.blobs.get(&digest).is_some_and(|hit| std::ptr::eq(Arc::as_ptr(hit), old.as_ptr()))
                {
                    told.extend(watched.blobs.remove(&digest));
                }
            }
        }
        drop(watched);
    }

    /// A blob that is being downloaded since `begun`.
    pub fn watched(&self, digest: Digest, begun: Instant, blob: Blob) -> Blob {
        let Some(hit) = self.0.lock().blobs.remove(&digest) else { return blob };
        if blob.as_bytes().is_some() {
            hit.took(begun);
            return blob;
        }
        let (length, download) = (blob.len(), Download { hit, begun });
        Blob::stream(
            length,
            blob.into_stream().inspect(move |_| {
                // It ends with the stream.
                let _ = &download;
            }),
        )
    }
}

/// A download that is under way.
struct Download {
    hit: Arc<Hit>,
    begun: Instant,
}

impl Drop for Download {
    fn drop(&mut self) {
        self.hit.took(self.begun);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mortar_model::{DigestFunction, ExecutionMetadata};
    use mortar_remote::breaker::{Call, Cause, Terms};

    fn result(name: &str, gain: Duration) -> (ActionResult, Digest, Bytes) {
        let bytes = Bytes::from(name.to_owned());
        let digest = Digest::of(DigestFunction::Sha256, &bytes);
        let metadata =
            ExecutionMetadata { virtual_execution_duration: Some(gain), ..ExecutionMetadata::default() };
        (ActionResult { stdout_digest: Some(digest), metadata, ..ActionResult::default() }, digest, bytes)
    }

    fn judged(gain: Duration, cost: Duration) -> Option<Cause> {
        let terms = Terms { hits: 3, ..Terms::default() };
        let breaker = Breaker::new("u", terms, None);
        let benefit = Benefit::new(breaker.clone());
        for at in 0..4 {
            let (result, digest, bytes) = result(&at.to_string(), gain);
            benefit.found(&result, Duration::ZERO);
            let begun = Instant::now().checked_sub(cost).unwrap();
            // Nothing is told before the blob is there.
            benefit.0.lock().blobs[&digest].cost.lock().until = begun;
            drop(benefit.watched(digest, begun, Blob::bytes(bytes)));
        }
        breaker.standing().open[Call::LookUp as usize]
    }

    #[test]
    fn downloads_are_a_part_of_what_results_cost() {
        let (short, long) = (Duration::from_millis(10), Duration::from_secs(10));
        assert_eq!(judged(short, long), Some(Cause::NoBenefit));
        assert_eq!(judged(long, short), None);
    }

    #[test]
    fn what_is_not_downloaded_is_forgotten() {
        let breaker = Breaker::new("u", Terms::default(), None);
        let benefit = Benefit::new(breaker);
        for at in 0..MOST + 10 {
            benefit.found(&result(&at.to_string(), Duration::ZERO).0, Duration::ZERO);
        }
        assert_eq!(benefit.0.lock().blobs.len(), MOST);
    }
}
