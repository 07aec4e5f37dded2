//! Asks an upstream whether it is there, by one cheap call at a time, for which no caller waits: while it is left alone, and
//! while calls that may take any time hear nothing of it.

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

/// A call that may take any time, for as long as this lives. While there are such calls, somebody sees to it that they do
/// not wait for an upstream that is gone.
pub(super) struct Endless(Arc<Shared>);

impl Endless {
    pub fn begin(shared: &Arc<Shared>) -> Self {
        shared.endless.fetch_add(1, Ordering::SeqCst);
        watch_over(shared);
        Self(shared.clone())
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.endless.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Asks whether anybody is there when nothing was heard for a while, less and less often where nothing else is to be heard;
/// ends with the last of the calls, or when nobody was there. One at a time, however often it is started.
fn watch_over(shared: &Arc<Shared>) {
    let Some(probe) = shared.probe.clone() else { return };
    if shared.watched.swap(true, Ordering::SeqCst) {
        return;
    }
    let breaker = Arc::downgrade(shared);
    tokio::spawn(async move {
        let (mut pause, mut heard) = (Duration::ZERO, None);
        while let Some(shared) = breaker.upgrade() {
            let now = shared.activity.load(Ordering::Relaxed);
            let (shortest, longest) = shared.limits;
            let is_quiet = heard.replace(now) == Some(now);
            pause = if is_quiet { (pause * 2).min(longest) } else { shortest / 2 };
            if is_quiet {
                let limit = shared.judge.lock().shortest_limit();
                drop(shared);
                // Who refuses is there, or the calls, which go the same way, fail as well.
                let answered = tokio::time::timeout(limit, probe.probe()).await;
                let Some(shared) = breaker.upgrade() else { return };
                if answered.is_err() && shared.activity.load(Ordering::Relaxed) == now {
                    shared.watched.store(false, Ordering::SeqCst);
                    shared.apply(Event::Deserted);
                    return;
                }
                if matches!(answered, Ok(Ok(()))) {
                    shared.touch();
                    // That was no news of anything else.
                    heard = Some(shared.activity.load(Ordering::Relaxed));
                }
            }
            tokio::time::sleep(pause).await;
            if breaker.upgrade().is_none_or(|shared| is_over(&shared)) {
                return;
            }
        }
    });
}

/// Whether no call waits any more; from then on the next one has to begin anew.
fn is_over(shared: &Shared) -> bool {
    let none = || shared.endless.load(Ordering::SeqCst) == 0;
    if !none() {
        return false;
    }
    shared.watched.store(false, Ordering::SeqCst);
    // One that came in between found it watched.
    none() || shared.watched.swap(true, Ordering::SeqCst)
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
