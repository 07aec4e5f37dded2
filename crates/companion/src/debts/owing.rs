//! A debt on its way into the books: who gives up half-way leaves nothing behind.

use super::{Debts, state::Debt};
use mortar_model::Context;
use mortar_store::Owed;
use std::time::SystemTime;

/// Room that is taken for a debt.
pub(super) struct Room<'a> {
    debts: &'a Debts,
    bytes: u64,
    kept: bool,
}

impl<'a> Room<'a> {
    /// None if there is none now.
    pub fn take(debts: &'a Debts, bytes: u64) -> Option<Self> {
        let bounds = debts.bounds;
        let mut state = debts.state.lock();
        let fits = state.entries < bounds.entries && state.bytes.saturating_add(bytes) <= bounds.bytes;
        if !fits && state.entries > 0 {
            return None;
        }
        state.entries += 1;
        state.bytes += bytes;
        Some(Self { debts, bytes, kept: false })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let mut state = self.debts.state.lock();
            state.entries -= 1;
            state.bytes -= self.bytes;
            drop(state);
            self.debts.settled.send_modify(|count| *count += 1);
        }
    }
}

/// A debt that is being written down.
pub(super) struct Owing<'a> {
    room: Room<'a>,
    number: u64,
}

impl<'a> Owing<'a> {
    pub fn new(debts: &'a Debts, room: Room<'a>) -> Self {
        debug_assert!(std::ptr::eq(debts, room.debts));
        Self { number: debts.journal.number(), room }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// It is durable: from now on it is owed. The number under which it is.
    pub fn enter(mut self, upstream: usize, context: &Context, owed: Owed) -> u64 {
        let debts = self.room.debts;
        let (number, since) = (self.number, SystemTime::now());
        let debt = Debt { number, instance: context.instance.clone(), owed, since, attempts: 0 };
        let mut state = debts.state.lock();
        // Its room is counted by the books.
        state.entries -= 1;
        state.bytes -= self.room.bytes;
        let blob = if let Owed::Blob(digest) = debt.owed { Some(digest) } else { None };
        let kept = blob.and_then(|digest| state.blob(&context.instance, digest));
        let superseded = match kept {
            Some(_) => vec![number],
            None => state.enter(upstream, debt),
        };
        drop(state);
        if kept.is_some() {
            // Another writer of the same blob was first.
            blob.into_iter().for_each(|digest| debts.holds.release(digest));
        }
        self.room.kept = true;
        for number in superseded {
            debts.journal.done(number);
        }
        debts.settled.send_modify(|count| *count += 1);
        debts.news.notify_waiters();
        kept.unwrap_or(number)
    }
}

impl Drop for Owing<'_> {
    fn drop(&mut self) {
        if !self.room.kept {
            self.room.debts.journal.done(self.number);
        }
    }
}
