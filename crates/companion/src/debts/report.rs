//! What is told of the debts: how much is owed, what was refused, and the flush that waits for the rest.

use super::{Debts, state::Debt};
use mortar_model::Error;
use mortar_store::Owed;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// What is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Blobs.
    pub blobs: u64,
    /// Results.
    pub results: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Since when the oldest is owed.
    pub since: Option<SystemTime>,
}

/// Something that an upstream would not take.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The upstream's name.
    pub upstream: String,
    /// Such as `blob …`.
    pub what: String,
    /// What the upstream said.
    pub why: String,
    /// When.
    pub at: SystemTime,
}

/// How a flush ended.
#[derive(Clone, Debug)]
pub struct Flushed {
    /// What is still owed of it.
    pub left: Left,
    /// Why, if that is known.
    pub trouble: Option<String>,
    /// What was refused since the flush before.
    pub refused: Vec<Refused>,
}

impl Refused {
    pub(super) fn new(upstream: &str, debt: &Debt, why: &Error) -> Self {
        let what = match &debt.owed {
            Owed::Blob(digest) => format!("blob `{digest}`"),
            Owed::Result { key, .. } => format!("the result of action `{}`", key.hex()),
        };
        let why = why.kind().to_string();
        Self { upstream: upstream.to_owned(), what, why, at: SystemTime::now() }
    }
}

impl Debts {
    /// What is owed to one upstream, or to all.
    pub fn left(&self, upstream: Option<usize>) -> Left {
        self.left_up_to(upstream, u64::MAX)
    }

    fn left_up_to(&self, upstream: Option<usize>, last: u64) -> Left {
        let state = self.state.lock();
        let mut left = Left::default();
        for debt in state.debts(upstream, last) {
            match debt.owed {
                Owed::Blob(_) => left.blobs += 1,
                Owed::Result { .. } => left.results += 1,
            }
            left.bytes += super::state::size(&debt.owed);
            left.since = Some(left.since.map_or(debt.since, |since| since.min(debt.since)));
        }
        left
    }

    /// What was refused lately.
    pub fn refused(&self) -> Vec<Refused> {
        self.state.lock().refused()
    }

    /// Waits until all that is owed by now is upstream or refused, or until the time is over.
    pub async fn flush(&self, timeout: Option<Duration>) -> Flushed {
        let last = self.journal.last();
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut settled = self.settled.subscribe();
        self.nudge.notify_waiters();
        while self.state.lock().owes_up_to(last) {
            let changed = settled.changed();
            let in_time = match until {
                Some(until) => tokio::time::timeout_at(until, changed).await.is_ok(),
                None => changed.await.is_ok(),
            };
            if !in_time {
                break;
            }
        }
        let left = self.left_up_to(None, last);
        let trouble = if left == Left::default() { None } else { self.trouble() };
        Flushed { left, trouble, refused: self.state.lock().flush_refused() }
    }
}
