//! Directories that were seen with all that is below them, a moment ago. Most input roots share most of their directories
//! with roots before them, so that only what differs is walked.

use mortar_model::{Clock, Digest};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long nobody looks again. What was seen is leased for much longer; what goes away all the same is found by the
/// worker.
const TRUST: Duration = Duration::from_secs(60);
/// Directories that are remembered: some 5 MiB.
const MOST: usize = 1 << 16;

/// Remembers them.
pub(crate) struct Complete {
    clock: Arc<dyn Clock>,
    seen: Mutex<HashMap<Digest, Instant>>,
}

impl Complete {
    /// Remembers none yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, seen: Mutex::default() }
    }

    /// Whether a directory need not be walked.
    pub(super) fn knows(&self, digest: &Digest) -> bool {
        let seen = self.seen.lock().get(digest).copied();
        seen.is_some_and(|at| self.clock.now().saturating_duration_since(at) < TRUST)
    }

    /// These were seen, and all below them is there.
    pub(super) fn enter(&self, directories: impl ExactSizeIterator<Item = Digest>) {
        let now = self.clock.now();
        let mut seen = self.seen.lock();
        if seen.len() + directories.len() > MOST {
            seen.retain(|_, at| now.saturating_duration_since(*at) < TRUST);
        }
        if seen.len() + directories.len() > MOST {
            seen.clear();
        }
        seen.extend(directories.take(MOST).map(|digest| (digest, now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction::Sha256;
    use std::time::SystemTime;

    struct Held(Mutex<Instant>);

    impl Clock for Held {
        fn now(&self) -> Instant {
            *self.0.lock()
        }

        fn wall(&self) -> SystemTime {
            SystemTime::now()
        }
    }

    #[test]
    fn trust_ends_and_so_does_memory() {
        let clock = Arc::new(Held(Mutex::new(Instant::now())));
        let complete = Complete::new(clock.clone());
        let digest = |index: usize| Digest::of(Sha256, &index.to_le_bytes());
        complete.enter([digest(0)].into_iter());
        assert!(complete.knows(&digest(0)) && !complete.knows(&digest(1)));
        *clock.0.lock() += TRUST;
        assert!(!complete.knows(&digest(0)));
        complete.enter((1..=MOST).collect::<Vec<_>>().into_iter().map(digest));
        assert!(complete.knows(&digest(MOST)) && complete.seen.lock().len() == MOST);
        complete.enter([digest(0)].into_iter());
        assert!(complete.knows(&digest(0)) && complete.seen.lock().len() == 1);
    }
}
