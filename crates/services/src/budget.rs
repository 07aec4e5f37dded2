//! The bytes of content that a server holds on their way, over all streams in both directions and all batches.
//!
//! Who is about to hold content takes a [`Share`] of the budget and gives it back when the content was written to the
//! store or to the network; content that goes out carries its share with it ([`Share::attach`]). Shares are given out
//! in the order in which they were asked for.
//!
//! # Why nobody waits for ever
//! Beside the budget, every stream has an allotment of its own: the one piece that it cannot do without. The budget
//! bounds what goes beyond.
//! - What comes in is in memory already when its size is known, and leaves it by being written. So its share is
//!   *claimed*: that never waits, and overdraws the budget if need be. An upload holds one frame at a time: its
//!   allotment. Since uploads never wait for shares, frames that nobody reads cannot fill the connection that others
//!   upload on.
//! - What goes out is not in memory yet. Its share is *taken* before the store is asked for the piece, which may wait
//!   for others: for uploads, which wait only for the store, and for clients that read slowly. The store takes no
//!   shares. The wait is bounded by [`PATIENCE`]; whoever has waited that long goes on with its allotment, one piece,
//!   as an overdraft. So clients that have stopped reading slow others down to a piece each `PATIENCE`, and no further.
//!
//! A stream holds no share that it waits for another one with.

use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long a piece waits for others before it goes on all the same.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// One per server. Clones are the same budget.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Mutex<Balance>>);

struct Balance {
    /// What is left. Overdrawn, less than nothing.
    free: i64,
    total: i64,
    /// Who waits, first come, first served.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    bytes: i64,
    granted: oneshot::Sender<Share>,
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let total = signed(bytes);
        Self(Arc::new(Mutex::new(Balance { free: total, total, waiting: VecDeque::new() })))
    }

    /// A share of so many bytes, at once, whatever is left: for content that is here already.
    pub(crate) fn claim(&self, bytes: usize) -> Share {
        let bytes = signed(bytes);
        self.0.lock().free -= bytes;
        Share { budget: self.clone(), bytes }
    }

    /// A share of so many bytes, when it is its turn, or after [`PATIENCE`].
    pub(crate) async fn take(&self, bytes: usize) -> Share {
        let granted = match self.queue(signed(bytes)) {
            Ok(share) => return share,
            Err(granted) => granted,
        };
        match tokio::time::timeout(PATIENCE, granted).await {
            Ok(Ok(share)) => share,
            _ => self.claim(bytes),
        }
    }

    /// A share, or a place in the queue. Nobody overtakes those who wait.
    fn queue(&self, bytes: i64) -> Result<Share, oneshot::Receiver<Share>> {
        let mut balance = self.0.lock();
        if balance.waiting.is_empty() && balance.covers(bytes) {
            balance.free -= bytes;
            return Ok(Share { budget: self.clone(), bytes });
        }
        let (granted, waits) = oneshot::channel();
        balance.waiting.push_back(Waiting { bytes, granted });
        Err(waits)
    }

    /// Takes bytes back and gives them to those who wait.
    fn give_back(&self, bytes: i64) {
        let mut turns = Vec::new();
        {
            let mut balance = self.0.lock();
            balance.free += bytes;
            while let Some(next) = balance.waiting.front() {
                let gone = next.granted.is_closed();
                if !gone && !balance.covers(next.bytes) {
                    break;
                }
                let Some(next) = balance.waiting.pop_front() else { break };
                if !gone {
                    balance.free -= next.bytes;
                    turns.push(next);
                }
            }
        }
        for Waiting { bytes, granted } in turns {
            // A share that nobody fetches comes back by itself.
            let _ = granted.send(Share { budget: self.clone(), bytes });
        }
    }

    #[cfg(test)]
    fn free(&self) -> i64 {
        self.0.lock().free
    }
}

impl Balance {
    /// More than there is in all is covered by all of it.
    fn covers(&self, bytes: i64) -> bool {
        self.free >= bytes.min(self.total)
    }
}

/// A part of the budget, given back when it is dropped.
pub(crate) struct Share {
    budget: Budget,
    bytes: i64,
}

impl Share {
    /// Makes this a share of so many bytes, now that their number is known.
    pub(crate) fn resize(&mut self, bytes: usize) {
        let bytes = signed(bytes);
        let surplus = self.bytes - bytes;
        self.bytes = bytes;
        match surplus > 0 {
            true => self.budget.give_back(surplus),
            false => self.budget.0.lock().free += surplus,
        }
    }

    /// These bytes, which give the share back when the last of them is dropped: when the connection has sent them.
    pub(crate) fn attach(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() { bytes } else { Bytes::from_owner(Attached { bytes, _share: self }) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.bytes);
        }
    }
}

struct Attached {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Attached {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, poll};

    #[tokio::test]
    async fn shares_are_given_in_turn() {
        let budget = Budget::new(100);
        let first = budget.take(80).await;
        let (mut large, mut small) = (budget.take(60).boxed(), budget.take(10).boxed());
        assert!(poll!(&mut large).is_pending());
        // There would be enough, but it is not its turn.
        assert!(poll!(&mut small).is_pending());
        drop(first);
        let (large, small) = (large.await, small.await);
        assert_eq!(budget.free(), 30);
        drop((large, small));
        assert_eq!(budget.free(), 100);
    }

    #[tokio::test]
    async fn those_who_leave_the_queue_do_not_block_it() {
        let budget = Budget::new(100);
        let all = budget.take(100).await;
        let mut gone = budget.take(90).boxed();
        let mut fetched_by_nobody = budget.take(20).boxed();
        let mut last = budget.take(30).boxed();
        assert!(poll!(&mut gone).is_pending());
        assert!(poll!(&mut fetched_by_nobody).is_pending());
        assert!(poll!(&mut last).is_pending());
        drop(gone);
        drop(all);
        drop(fetched_by_nobody);
        let last = last.await;
        assert_eq!(budget.free(), 70);
        drop(last);
        assert_eq!(budget.free(), 100);
    }

    #[tokio::test]
    async fn more_than_all_is_all() {
        let budget = Budget::new(100);
        let mut share = budget.take(1_000).await;
        assert_eq!(budget.free(), -900);
        share.resize(40);
        assert_eq!(budget.free(), 60);
        share.resize(50);
        assert_eq!(budget.free(), 50);
        let claimed = budget.claim(70);
        assert_eq!(budget.free(), -20);
        drop((share, claimed));
        assert_eq!(budget.free(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_budget_is_overdrawn() {
        let budget = Budget::new(100);
        let stuck = budget.take(100).await;
        let patient = budget.take(10).await;
        assert_eq!(budget.free(), -10);
        drop(patient);
        drop(stuck);
        assert_eq!(budget.free(), 100);
    }

    #[tokio::test]
    async fn attached_bytes_give_back_when_the_last_of_them_is_gone() {
        let budget = Budget::new(100);
        let bytes = budget.take(3).await.attach(Bytes::from_static(b"abc"));
        let tail = bytes.slice(1..);
        assert_eq!((&bytes[..], &tail[..]), (&b"abc"[..], &b"bc"[..]));
        drop(bytes);
        assert_eq!(budget.free(), 97);
        drop(tail);
        assert_eq!(budget.free(), 100);
        assert!(budget.take(1).await.attach(Bytes::new()).is_empty());
        assert_eq!(budget.free(), 100);
    }
}
