//! Uploads that are continued over several calls, for any store that can take a blob piece by piece: who holds an
//! upload, who takes it over, and when one that nobody continues is dropped.
//!
//! That is when it was left for too long, which is looked at whenever the uploads are asked about, and on
//! `expire`; or earlier, when the store wants its room (`drop_idlest`). An upload in somebody's hands stays.

use crate::{
    blocking::{PIECE, hop},
    intake::Intake,
};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{Clock, Context, Digest, Encoding, Error, InstanceName, Kind, Result, Upload, UploadId};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// The uploads of one store.
pub(crate) struct Sessions<I> {
    table: Arc<Table<I>>,
    keep: Duration,
    max_idle: usize,
    clock: Arc<dyn Clock>,
}

type Name = (InstanceName, UploadId);
type Table<I> = Mutex<HashMap<Name, Arc<Session<I>>>>;

struct Session<I> {
    digest: Digest,
    encoding: Encoding,
    last_use: Mutex<Instant>,
    /// Held while pieces are written, so that whoever takes the upload over waits for them.
    partial: Arc<tokio::sync::Mutex<Partial<I>>>,
}

struct Partial<I> {
    /// Absent once the upload has ended, well or not.
    intake: Option<I>,
    pending: Vec<Bytes>,
    pending_length: usize,
    committed: u64,
    /// Counts how often the upload was opened; only the last one who did may write.
    holder: u64,
}

impl<I: Intake> Partial<I> {
    /// Somebody else goes on with new frames.
    fn go_on(&mut self) {
        let Some(intake) = &mut self.intake else { return };
        intake.go_on();
        self.committed = intake.taken();
    }
}

/// Has the intake take what is pending, so that it is known how much content that is. If it does not take it, the
/// upload is over.
async fn looked_into<I: Intake>(mut partial: Held<I>) -> Result<Held<I>> {
    if partial.pending.is_empty() {
        return Ok(partial);
    }
    hop(move || {
        let pieces = std::mem::take(&mut partial.pending);
        partial.pending_length = 0;
        if let Some(mut intake) = partial.intake.take() {
            partial.intake = intake.take(&pieces).is_ok().then_some(intake);
        }
        Ok(partial)
    })
    .await
}

impl<I: Intake> Sessions<I> {
    pub fn new(keep: Duration, max_idle: usize, clock: Arc<dyn Clock>) -> Self {
        Self { table: Arc::default(), keep, max_idle, clock }
    }

    pub fn len(&self) -> usize {
        self.expire();
        self.table.lock().len()
    }

    /// How long ago the upload was used last that was left first, of those that nobody holds.
    pub fn longest_idle(&self) -> Option<Duration> {
        let now = self.clock.now();
        let first = idle(&self.table.lock()).map(|(last_use, _)| last_use).min()?;
        Some(now.saturating_duration_since(first))
    }

    /// Drops the upload that was left first, of those that nobody holds. Whoever comes for it begins anew.
    pub fn drop_idlest(&self) {
        let dropped = {
            let mut table = self.table.lock();
            let name = idle(&table).min_by_key(|(last_use, _)| *last_use).map(|(_, name)| name.clone());
            name.and_then(|name| table.remove(&name))
        };
        // It takes locks of the store's.
        drop(dropped);
    }

    /// Continues an upload of a blob in an encoding, which the intake that `begin` makes decodes; what was sent of it
    /// in another one is dropped.
    pub async fn open(
        &self,
        context: &Context,
        id: &UploadId,
        (digest, encoding): (Digest, Encoding),
        begin: impl FnOnce() -> Result<I> + Send + 'static,
    ) -> Result<Box<dyn Upload>> {
        self.expire();
        let name = (context.instance.clone(), id.clone());
        let known = self.table.lock().get(&name).cloned();
        if let Some(session) =
            known.filter(|session| (session.digest, session.encoding) == (digest, encoding))
        {
            let mut partial = session.partial.clone().lock_owned().await;
            if encoding == Encoding::Zstd {
                partial = looked_into(partial).await?;
                partial.go_on();
            }
            if partial.intake.is_some() {
                partial.holder += 1;
                let (holder, committed) = (partial.holder, partial.committed);
                drop(partial);
                return Ok(self.handle(name, session, holder, committed));
            }
        }
        let intake = hop(begin).await?;
        let committed = intake.taken();
        let partial =
            Partial { intake: Some(intake), pending: Vec::new(), pending_length: 0, committed, holder: 0 };
        let partial = Arc::new(tokio::sync::Mutex::new(partial));
        let session = Arc::new(Session { digest, encoding, last_use: Mutex::new(self.clock.now()), partial });
        let replaced = self.table.lock().insert(name.clone(), session.clone());
        if let Some(older) = replaced {
            older.partial.lock().await.holder += 1;
        }
        Ok(self.handle(name, session, 0, committed))
    }

    pub async fn committed(&self, context: &Context, id: &UploadId) -> Option<u64> {
        self.expire();
        let session = self.table.lock().get(&(context.instance.clone(), id.clone())).cloned()?;
        let partial = session.partial.clone().lock_owned().await;
        match session.encoding {
            Encoding::Identity => partial.intake.as_ref().map(|_| partial.committed),
            Encoding::Zstd => looked_into(partial).await.ok()?.intake.as_ref().map(I::taken),
        }
    }

    fn handle(&self, name: Name, session: Arc<Session<I>>, holder: u64, committed: u64) -> Box<dyn Upload> {
        let (table, clock) = (self.table.clone(), self.clock.clone());
        Box::new(Handle { table, clock, name, session, holder, committed })
    }

    /// Drops uploads that nobody holds: those that were left too long ago, and the oldest beyond a number.
    pub fn expire(&self) {
        let now = self.clock.now();
        let mut table = self.table.lock();
        let mut idle: Vec<_> = idle(&table).map(|(last_use, name)| (last_use, name.clone())).collect();
        idle.sort_by_key(|(last_use, _)| std::cmp::Reverse(*last_use));
        let kept = idle.iter().take(self.max_idle);
        let kept =
            kept.take_while(|(last_use, _)| now.saturating_duration_since(*last_use) < self.keep).count();
        let expired: Vec<_> = idle.drain(kept..).filter_map(|(_, name)| table.remove(&name)).collect();
        drop(table);
        drop(expired);
    }
}

/// The uploads that nobody holds, with their last use.
fn idle<I>(table: &HashMap<Name, Arc<Session<I>>>) -> impl Iterator<Item = (Instant, &Name)> {
    // Others come by an upload only through the table, which is locked.
    let idle = table.iter().filter(|(_, session)| Arc::strong_count(session) == 1);
    idle.map(|(name, session)| (*session.last_use.lock(), name))
}

/// An upload in the hands of one caller.
struct Handle<I> {
    table: Arc<Table<I>>,
    clock: Arc<dyn Clock>,
    name: Name,
    session: Arc<Session<I>>,
    holder: u64,
    committed: u64,
}

type Held<I> = tokio::sync::OwnedMutexGuard<Partial<I>>;

impl<I: Intake> Handle<I> {
    async fn hold(&self) -> Result<Held<I>> {
        let partial = self.session.partial.clone().lock_owned().await;
        if partial.holder != self.holder || partial.intake.is_none() {
            let message =
                format!("the upload `{:?}` was taken over by another call, or has ended", self.name.1);
            return Err(Error::new(Kind::Aborted { message }));
        }
        *self.session.last_use.lock() = self.clock.now();
        Ok(partial)
    }

    /// Ends the session, unless another one has its name by now.
    fn forget(table: &Table<I>, name: &Name, session: &Arc<Session<I>>) {
        let mut table = table.lock();
        if table.get(name).is_some_and(|known| Arc::ptr_eq(known, session)) {
            table.remove(name);
        }
    }

    /// Runs `step` on the intake with all that is pending; if it fails or `ends`, the upload is over.
    async fn run(&self, mut partial: Held<I>, ends: bool) -> Result<()> {
        let (table, name, session) = (self.table.clone(), self.name.clone(), self.session.clone());
        hop(move || {
            let Some(mut intake) = partial.intake.take() else { return Ok(()) };
            partial.pending_length = 0;
            let pieces = std::mem::take(&mut partial.pending);
            let done = intake.take(&pieces).and_then(|()| match ends {
                true => intake.finish(),
                false => {
                    partial.intake = Some(intake);
                    Ok(())
                }
            });
            if partial.intake.is_none() {
                Self::forget(&table, &name, &session);
            }
            done
        })
        .await
    }
}

#[async_trait]
impl<I: Intake> Upload for Handle<I> {
    fn committed(&self) -> u64 {
        self.committed
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut partial = self.hold().await?;
        partial.committed += bytes.len() as u64;
        partial.pending_length += bytes.len();
        self.committed = partial.committed;
        // Frames may be longer than their content; what they hold is looked at piece by piece.
        let too_long =
            self.session.encoding == Encoding::Identity && partial.committed > self.session.digest.size();
        partial.pending.push(bytes);
        match partial.pending_length >= PIECE || too_long {
            true => self.run(partial, false).await,
            false => Ok(()),
        }
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let partial = self.hold().await?;
        self.run(partial, true).await
    }
}
