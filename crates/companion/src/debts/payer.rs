//! Pays what is owed: for each upstream one payer of small blobs, one of large ones, one of results. Who cannot pay now
//! tries again, after a while that grows, and keeps the order.

use super::{
    Debts,
    state::{Debt, Kind},
};
use crate::{
    ferry::{Carried, Ferry},
    upstream::{Upstream, is_away, is_stranger},
};
use futures::{StreamExt, stream};
use mortar_model::{Context, DigestSet, Error};
use mortar_store::Owed;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What is taken at a time.
const SMALL_BLOBS: usize = 2_000;
const LARGE_BLOBS: usize = 8;
const RESULTS: usize = 256;
/// Results that are sent at the same time.
const SENDS: usize = 16;
/// How long small things wait for others that come with them.
const GATHER: Duration = Duration::from_millis(2);
/// With more writes than this under way at the same time, a client waits for this machine, and uploads let it go first,
/// for so long at most.
const MANY_WRITES: usize = 64;
const LONGEST_YIELD: Duration = Duration::from_secs(2);
/// The first and the longest wait before another try: short enough for the breaker to know that somebody waits.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often an upstream may fail at the same thing by a fault of its own.
const ATTEMPTS: u32 = 8;

/// The payers of all upstreams.
pub(crate) struct Payers {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Payers {
    /// Ends them. What is under way is given up; it is still owed.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Begins to pay.
pub(crate) fn pay(debts: &Arc<Debts>, ferry: &Ferry) -> Payers {
    let payers = Payers { tasks: TaskTracker::new(), stop: CancellationToken::new() };
    for upstream in debts.upstreams.all() {
        for kind in [Kind::Small, Kind::Large, Kind::Result] {
            let payer =
                Payer { debts: debts.clone(), ferry: ferry.clone(), upstream: upstream.clone(), kind };
            let stop = payers.stop.clone();
            payers.tasks.spawn(async move {
                let _ = stop.run_until_cancelled(payer.run()).await;
            });
        }
    }
    payers
}

struct Payer {
    debts: Arc<Debts>,
    ferry: Ferry,
    upstream: Arc<Upstream>,
    kind: Kind,
}

/// How it went with one debt.
enum Fate {
    Paid,
    Later,
    Never(Arc<Error>),
}

impl Payer {
    async fn run(self) {
        let mut wait = FIRST_WAIT;
        loop {
            let taken = Taken { payer: &self, debts: self.take().await };
            let later = match self.kind {
                Kind::Result => self.pay_results(taken).await,
                Kind::Small | Kind::Large => self.pay_blobs(taken).await,
            };
            if later {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.debts.nudge.notified() => {}
                    () = self.upstream.comes_back() => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            } else {
                wait = FIRST_WAIT;
            }
        }
    }

    /// Waits for something to pay.
    async fn take(&self) -> Vec<Debt> {
        let most = match self.kind {
            Kind::Small => SMALL_BLOBS,
            Kind::Large => LARGE_BLOBS,
            Kind::Result => RESULTS,
        };
        loop {
            let news = self.debts.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let (index, kind) = (self.upstream.index, self.kind);
            if self.debts.state.lock().is_ready(index, kind) {
                if kind != Kind::Large {
                    tokio::time::sleep(GATHER).await;
                }
                if kind == Kind::Small {
                    // Whoever stops waiting then takes what is there.
                    let _ = tokio::time::timeout(LONGEST_YIELD, self.few_writes()).await;
                }
                let taken = self.debts.state.lock().take(index, kind, most);
                if !taken.is_empty() {
                    return taken;
                }
            }
            news.await;
        }
    }

    /// Returns when few clients wait for writes here. Those who wait for the upload as well are not let go first.
    async fn few_writes(&self) {
        let debts = &self.debts;
        while !debts.write_through && debts.writing.load(Ordering::Relaxed) > MANY_WRITES {
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Whether something is left for later.
    async fn pay_blobs(&self, mut taken: Taken<'_>) -> bool {
        let context = taken.context();
        let digests = taken.debts.iter().filter_map(|debt| match debt.owed {
            Owed::Blob(digest) => Some(digest),
            Owed::Result { .. } => None,
        });
        let carried = self.ferry.carry(&self.upstream, &context, &digests.collect()).await;
        let mut later = false;
        for debt in std::mem::take(&mut taken.debts) {
            let Owed::Blob(digest) = debt.owed else { continue };
            let fate = match carried.get(&digest) {
                Some(Ok(())) => Fate::Paid,
                Some(Err(error)) => fate(error.clone(), debt.attempts),
                None => Fate::Later,
            };
            later |= self.settle(debt, fate);
        }
        later
    }

    async fn pay_results(&self, mut taken: Taken<'_>) -> bool {
        let context = taken.context();
        let mut needed = DigestSet::new();
        for debt in &taken.debts {
            if let Owed::Result { closure, .. } = &debt.owed {
                needed.extend(closure.iter());
            }
        }
        let carried = self.ferry.carry(&self.upstream, &context, &needed).await;
        let fates = {
            let sends: Vec<_> =
                taken.debts.iter().map(|debt| self.pay_result(&context, debt, &carried)).collect();
            stream::iter(sends).buffered(SENDS).collect::<Vec<_>>().await
        };
        let debts = std::mem::take(&mut taken.debts);
        debts.into_iter().zip(fates).fold(false, |later, (debt, fate)| self.settle(debt, fate) | later)
    }

    async fn pay_result(&self, context: &Context, debt: &Debt, carried: &Carried) -> Fate {
        let Owed::Result { key, bytes, closure } = &debt.owed else { return Fate::Paid };
        for digest in closure.iter() {
            match carried.get(&digest) {
                Some(Err(error)) if error.is_not_found() => {
                    let lost = Error::internal(format!(
                        "the result needs blob `{digest}`, which is neither here nor there any more"
                    ));
                    return Fate::Never(Arc::new(lost));
                }
                Some(Err(error)) => return fate(error.clone(), debt.attempts),
                _ => {}
            }
        }
        // The client sent the action before its result.
        let action = self.debts.index.lookup(&Context::glance(), key.function, &key.hash).await;
        let context = &Context { action: action.ok().flatten(), ..context.clone() };
        let sent = match self.debts.codec.decode_result(key.function, bytes.clone()) {
            Ok(result) => self.upstream.put(context, *key, result).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => Fate::Paid,
            Err(error) => fate(Arc::new(error), debt.attempts),
        }
    }

    /// Whether it is left for later.
    fn settle(&self, mut debt: Debt, fate: Fate) -> bool {
        let index = self.upstream.index;
        match fate {
            Fate::Paid => self.debts.settle(index, &debt),
            Fate::Never(why) => self.debts.refuse(index, &debt, &why),
            Fate::Later => {
                debt.attempts += u32::from(self.upstream.takes_writes());
                self.debts.state.lock().give_back(index, &debt);
                return true;
            }
        }
        false
    }
}

/// What is being paid. Who is stopped meanwhile gives it back.
struct Taken<'a> {
    payer: &'a Payer,
    debts: Vec<Debt>,
}

impl Taken<'_> {
    /// Of the calls: all are of one instance.
    fn context(&self) -> Context {
        let instance = self.debts.first().map(|debt| debt.instance.clone()).unwrap_or_default();
        let request = self.payer.debts.errand.at(Instant::now());
        Context { instance, request, ..Context::default() }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.payer.debts.state.lock();
        for debt in &self.debts {
            state.give_back(self.payer.upstream.index, debt);
        }
    }
}

/// What an error means for a debt.
fn fate(error: Arc<Error>, attempts: u32) -> Fate {
    use mortar_model::Kind::{
        Aborted, Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, Io,
        Mismatch, MissingBlobs, NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated,
        Unavailable, Unimplemented,
    };
    if is_away(&error) || is_stranger(&error) {
        return Fate::Later;
    }
    match error.kind() {
        Unavailable { .. } | DeadlineExceeded { .. } | Aborted { .. } | Cancelled { .. } => Fate::Later,
        ResourceExhausted { retry_after: Some(_), .. } => Fate::Later,
        // Of other servers, who do not say when to come again, that may be room that is wanted now, or at all.
        ResourceExhausted { retry_after: None, .. } if attempts < ATTEMPTS => Fate::Later,
        Internal { .. } | DataLoss { .. } | Io { .. } if attempts < ATTEMPTS => Fate::Later,
        Internal { .. }
        | DataLoss { .. }
        | Io { .. }
        | ResourceExhausted { retry_after: None, .. }
        | InvalidArgument { .. }
        | Mismatch { .. }
        | NotFound { .. }
        | MissingBlobs { .. }
        | FailedPrecondition { .. }
        | OutOfRange { .. }
        | PermissionDenied { .. }
        | Unauthenticated { .. }
        | Unimplemented { .. } => Fate::Never(error),
    }
}
