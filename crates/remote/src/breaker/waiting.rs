//! Waiting for an upstream: within the time that its answers usually take, or for any time as long as somebody is there.

use super::{Shared, probe::Endless};
use std::{
    future::Future,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// How long a call may take.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// As long as its kind usually takes, and a little longer where the upstream is busy.
    Bounded,
    /// As long as its kind usually takes and this beyond it, and on while the upstream is busy.
    WhileBusy(Duration),
    /// Any time, as long as somebody is there.
    Endless,
}

impl Patience {
    pub(super) fn first(self, limit: Duration) -> Duration {
        match self {
            Self::WhileBusy(more) => limit + more,
            Self::Bounded | Self::Endless => limit,
        }
    }
}

/// Patience has ended.
pub(super) struct Late {
    pub waited: Duration,
    /// Nothing came from the upstream in any other call either.
    pub silent: bool,
}

impl Shared {
    /// What `work` gives before patience ends. Where the upstream is busy with other calls meanwhile, it is not silent.
    pub(super) async fn bounded<T>(
        self: &Arc<Self>,
        patience: Patience,
        first: Duration,
        limit: Duration,
        longest: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let mut work = pin!(work);
        if matches!(patience, Patience::Endless) {
            // Who finds nobody there releases it.
            let _waits = Endless::begin(self);
            return Ok(work.await);
        }
        let (begun, mut next) = (Instant::now(), first);
        let mut activity = self.activity.load(Ordering::Relaxed);
        loop {
            if let Ok(value) = tokio::time::timeout(next, &mut work).await {
                return Ok(value);
            }
            let (before, waited) = (activity, begun.elapsed());
            activity = self.activity.load(Ordering::Relaxed);
            next = match patience {
                Patience::Bounded => limit.min(longest.saturating_sub(waited)),
                Patience::WhileBusy(_) | Patience::Endless => limit,
            };
            if activity == before || next.is_zero() {
                return Err(Late { waited, silent: activity == before });
            }
        }
    }
}
