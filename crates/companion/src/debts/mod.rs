//! What is owed to upstreams: written here and acknowledged, and still to be uploaded.
//!
//! A write is acknowledged when the blob is in the local store and its entry in the journal, both durably; until it is
//! paid, the blob is held, so that it is not evicted. Each upstream has its payers (`payer`), who take blobs in the order
//! in which they came, and results once all blobs that they need are there. What is owed is bounded: beyond that, writes
//! wait, and are refused in the end with a time to come again.

mod errand;
mod owing;
mod payer;
mod report;
mod state;

pub(crate) use payer::{Payers, pay};
pub use report::{Flushed, Left, Refused};

use crate::upstream::Upstreams;
use errand::Errand;
use mortar_model::{ActionKey, Codec, Context, Digest, Error, HashIndex, Holds, KeptResult, Kind, Result};
use mortar_store::{Journal, Owed, OwedEntry};
use owing::{Owing, Room};
use parking_lot::Mutex;
use state::{Debt, State};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// How long a write waits for room before it is refused, and when it is told to come again.
const PATIENCE: Duration = Duration::from_secs(10);
const COME_AGAIN: Duration = Duration::from_secs(5);

/// What may be owed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Blobs and results.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// All that is owed.
pub(crate) struct Debts {
    journal: Journal,
    holds: Arc<dyn Holds>,
    codec: Arc<dyn Codec>,
    upstreams: Arc<Upstreams>,
    /// Finds the sizes of actions.
    index: Arc<dyn HashIndex>,
    bounds: Bounds,
    /// A write is not acknowledged before it is upstream.
    write_through: bool,
    state: Mutex<State>,
    errand: Errand,
    /// Blobs that are being written here, for clients who wait for that.
    writing: AtomicUsize,
    /// There is something to pay.
    news: Notify,
    /// Counts what was paid or dropped.
    settled: watch::Sender<u64>,
    /// Somebody does not want to wait until an upstream is tried again.
    nudge: Notify,
}

/// A write under way.
struct Writing<'a>(&'a AtomicUsize);

impl<'a> Writing<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of what the debts are made.
pub(crate) struct Parts {
    pub journal: Journal,
    pub owed: Vec<OwedEntry>,
    pub holds: Arc<dyn Holds>,
    pub codec: Arc<dyn Codec>,
    pub upstreams: Arc<Upstreams>,
    pub index: Arc<dyn HashIndex>,
    pub bounds: Bounds,
    pub write_through: bool,
}

impl Debts {
    /// Takes up what was owed when the last run ended.
    pub fn new(parts: Parts) -> Self {
        let Parts { journal, owed, holds, codec, upstreams, index, bounds, write_through } = parts;
        let mut state = State::new(upstreams.all().len());
        for OwedEntry { number, instance, owed } in owed {
            let Ok(upstream) = upstreams.of(&instance) else {
                tracing::warn!(%instance, "what is owed to an upstream that is no longer known is given up");
                journal.done(number);
                continue;
            };
            if let Owed::Blob(digest) = &owed
                && !holds.hold(*digest)
            {
                // It was never acknowledged: its entry was durable before the blob.
                holds.release(*digest);
                journal.done(number);
                continue;
            }
            let debt = Debt { number, instance, owed, since: std::time::SystemTime::now(), attempts: 0 };
            let superseded = state.enter(upstream.index, debt);
            superseded.into_iter().for_each(|number| journal.done(number));
        }
        let (settled, _) = watch::channel(0);
        let (news, nudge) = (Notify::new(), Notify::new());
        Self {
            journal,
            holds,
            codec,
            upstreams,
            index,
            bounds,
            write_through,
            state: Mutex::new(state),
            errand: Errand::new(),
            writing: AtomicUsize::new(0),
            news,
            settled,
            nudge,
        }
    }

    /// Has `write` keep a blob, and owes it to the upstream unless that is known to have it. Durable when it returns.
    pub async fn owe_blob(
        &self,
        context: &Context,
        digest: Digest,
        write: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let upstream = self.upstreams.of(&context.instance)?;
        if upstream.knows(context, digest) {
            return write.await;
        }
        let owed_already = self.state.lock().blob(&context.instance, digest);
        if let Some(number) = owed_already {
            write.await?;
            // Written anew, perhaps: held anew.
            self.holds.hold(digest);
            self.holds.release(digest);
            return self.written_through(number).await;
        }
        let owing = Owing::new(self, self.room(digest.size()).await?);
        let owed = Owed::Blob(digest);
        let _writing = Writing::begin(&self.writing);
        let (written, added) =
            tokio::join!(write, self.journal.add(owing.number(), &context.instance, &owed));
        written.and(added)?;
        self.holds.hold(digest);
        let number = owing.enter(upstream.index, context, owed);
        self.written_through(number).await
    }

    /// Owes the result of an action. Durable when it returns.
    pub async fn owe_result(&self, context: &Context, key: ActionKey, kept: &KeptResult) -> Result<()> {
        let upstream = self.upstreams.of(&context.instance)?;
        let (bytes, closure) = (self.codec.encode_result(&kept.result), kept.closure.clone());
        let owed = Owed::Result { key, bytes, closure };
        let owing = Owing::new(self, self.room(state::size(&owed)).await?);
        self.journal.add(owing.number(), &context.instance, &owed).await?;
        let number = owing.enter(upstream.index, context, owed);
        self.written_through(number).await
    }

    /// Waits for room. What is larger than all that may be owed waits until nothing is.
    async fn room(&self, bytes: u64) -> Result<Room<'_>> {
        let waiting = async {
            let mut settled = self.settled.subscribe();
            loop {
                if let Some(room) = Room::take(self, bytes) {
                    return room;
                }
                let _ = settled.changed().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| {
            let left = self.left(None);
            let message = format!(
                "{} blobs and results of {} bytes wait to be uploaded, and no more may: {}",
                left.blobs + left.results,
                left.bytes,
                self.trouble().unwrap_or_else(|| "the upstream takes them slowly".into())
            );
            Error::new(Kind::ResourceExhausted { message, retry_after: Some(COME_AGAIN) })
        })
    }

    /// Where nothing is acknowledged before it is upstream: waits for that.
    async fn written_through(&self, number: u64) -> Result<()> {
        if !self.write_through {
            return Ok(());
        }
        let mut settled = self.settled.subscribe();
        self.nudge.notify_waiters();
        loop {
            if let Some(outcome) = self.state.lock().outcome(number) {
                return outcome;
            }
            let _ = settled.changed().await;
        }
    }

    fn trouble(&self) -> Option<String> {
        self.upstreams.all().iter().find_map(|upstream| upstream.trouble())
    }

    /// A debt is paid, or will never be: it is gone from here and from the journal.
    fn settle(&self, upstream: usize, debt: &Debt) {
        self.journal.done(debt.number);
        self.state.lock().leave(upstream, debt);
        if let Owed::Blob(digest) = debt.owed {
            self.holds.release(digest);
        }
        self.settled.send_modify(|count| *count += 1);
        self.news.notify_waiters();
    }

    /// A debt was refused for good: it is told, once, and given up.
    fn refuse(&self, upstream: usize, debt: &Debt, why: &Error) {
        let told = &self.upstreams.all()[upstream];
        crate::upstream::add(&told.counts.refused, 1);
        let refused = Refused::new(told.name.as_str(), debt, why);
        if self.state.lock().note_refusal(debt.number, refused.clone(), why) {
            tracing::warn!(
                "upstream {} refuses {}: {}; more is told by `mortar companion status`",
                told.uri,
                refused.what,
                refused.why
            );
        }
        self.settle(upstream, debt);
    }
}
