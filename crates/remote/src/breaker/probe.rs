//! Finds out, while an upstream is left alone, whether it answers again: one cheap call at a time, for which no caller waits.

use super::{Event, Fault, Shared, fault};
use crate::{HttpUpstream, Remote};
use async_trait::async_trait;
use mortar_model::{Context, Result};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How long a probe is waited for.
const LIMIT: Duration = Duration::from_secs(2);

/// A cheap call to an upstream.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Fails if the upstream cannot be reached, whatever else it says.
    async fn probe(&self) -> Result<()>;
}

#[async_trait]
impl Probe for Remote {
    async fn probe(&self) -> Result<()> {
        self.capabilities(&Context::glance()).await.map(drop)
    }
}

#[async_trait]
impl Probe for HttpUpstream {
    async fn probe(&self) -> Result<()> {
        self.reach(&Context::glance()).await
    }
}

/// Probes until it would tell nothing any more, or nobody has the breaker. One at a time, however often it is started.
pub(super) fn start(shared: &Arc<Shared>) {
    let Some(probe) = shared.probe.clone() else { return };
    if shared.probing.swap(true, Ordering::SeqCst) {
        return;
    }
    let breaker = Arc::downgrade(shared);
    tokio::spawn(async move {
        while let Some(pause) = breaker.upgrade().and_then(|shared| next(&shared)) {
            tokio::time::sleep(pause).await;
            let reached = match tokio::time::timeout(LIMIT, probe.probe()).await {
                Ok(Ok(())) => true,
                // It was refused, by somebody who is there.
                Ok(Err(error)) => matches!(fault(&error), Fault::Call),
                Err(_) => false,
            };
            if let Some(shared) = breaker.upgrade() {
                shared.apply(Event::Probed(reached));
            }
        }
    });
}

/// The pause before the next probe; none if there is to be none, which is settled before anything else can open.
fn next(shared: &Shared) -> Option<Duration> {
    let judge = shared.judge.lock();
    let pause = judge.probe_in();
    if pause.is_none() {
        shared.probing.store(false, Ordering::SeqCst);
    }
    pause
}
