//! Both places at once: the first to finish wins, the other is dropped.

use super::{
    Local,
    costs::{Costs, Place},
    local::Slot,
    plan::Plan,
};
use async_trait::async_trait;
use mortar_model::{
    Clock, Context, Error, ExecuteRequest, ExecutionMetadata, Executor, Outcome, Progress, Result, Stage,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Runs each action here and behind the upstream, by predicted cost. Where no slot is free here, or the action cannot run
/// here, the upstream has it alone.
///
/// The first success wins, and so does any end of the command that the upstream tells. A failure here is not believed
/// while the upstream may still know better, since this machine may lack what the action needs.
pub struct Race {
    remote: Arc<dyn Executor>,
    local: Local,
    costs: Mutex<Costs>,
    clock: Arc<dyn Clock>,
    tally: Arc<Tally>,
}

/// How races ended.
#[derive(Debug, Default)]
pub struct Tally {
    /// This machine was first.
    pub local: AtomicU64,
    /// The upstream was first.
    pub remote: AtomicU64,
    /// The upstream had the action alone.
    pub unraced: AtomicU64,
}

impl Race {
    /// Over both places.
    pub fn new(remote: Arc<dyn Executor>, local: Local, clock: Arc<dyn Clock>) -> Self {
        let (costs, tally) = (Mutex::default(), Arc::default());
        Self { remote, local, costs, clock, tally }
    }

    /// How races ended so far.
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    fn plan(&self, context: &Context) -> Plan {
        let costs = self.costs.lock();
        Plan::of(
            costs.predict(&context.request, Place::Local),
            costs.predict(&context.request, Place::Remote),
        )
    }

    /// Starts after a while, or when told to, and learns what it took.
    async fn run(
        &self,
        context: &Context,
        start: (Duration, &Notify),
        place: Place,
        running: impl Future<Output = Result<Outcome>>,
    ) -> Result<Outcome> {
        let (after, at_once) = start;
        if !after.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = at_once.notified() => {}
            }
        }
        let started = self.clock.now();
        let outcome = running.await;
        if outcome.as_ref().is_ok_and(|outcome| !outcome.cached) {
            let took = self.clock.now().saturating_duration_since(started);
            self.costs.lock().learn(&context.request, place, took);
        }
        outcome
    }

    async fn race(
        &self,
        slot: Slot,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let (plan, go, heard) = (self.plan(context), Notify::new(), Heard::new(progress));
        let here = self.local.run_in(slot, context, request.clone(), &heard);
        let there = self.remote.execute(context, request, &heard);
        let mut here = Box::pin(self.run(context, (plan.local, &go), Place::Local, here));
        let mut there = Box::pin(self.run(context, (plan.remote, &go), Place::Remote, there));
        tokio::select! {
            outcome = &mut here => match outcome {
                Ok(outcome) if outcome.result.is_success() => Ok(self.won(&self.tally.local, outcome)),
                failed => {
                    // Stays notified until the other waits for it.
                    go.notify_one();
                    drop(here);
                    match there.await {
                        Ok(outcome) => Ok(self.won(&self.tally.remote, outcome)),
                        Err(error) => self.both_failed(failed, error),
                    }
                }
            },
            outcome = &mut there => match outcome {
                Ok(outcome) => Ok(self.won(&self.tally.remote, outcome)),
                Err(error) => {
                    go.notify_one();
                    drop(there);
                    match here.await {
                        Ok(outcome) => Ok(self.won(&self.tally.local, outcome)),
                        Err(_) => Err(error),
                    }
                }
            },
        }
    }

    /// The command's own failure here is told rather than the upstream's trouble.
    fn both_failed(&self, here: Result<Outcome>, there: Error) -> Result<Outcome> {
        match here {
            Ok(outcome) => Ok(self.won(&self.tally.local, outcome)),
            Err(_) => Err(there),
        }
    }

    fn won(&self, count: &AtomicU64, outcome: Outcome) -> Outcome {
        count.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

#[async_trait]
impl Executor for Race {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        match self.local.free(context, &request).await {
            Some(slot) => self.race(slot, context, request, progress).await,
            None => {
                self.tally.unraced.fetch_add(1, Ordering::Relaxed);
                let running = self.remote.execute(context, request, progress);
                self.run(context, (Duration::ZERO, &Notify::new()), Place::Remote, running).await
            }
        }
    }
}

/// Passes on what is new: two places that tell the same stages are heard as one.
struct Heard<'a> {
    told: Mutex<Option<Stage>>,
    progress: &'a dyn Progress,
}

impl<'a> Heard<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        Self { told: Mutex::new(None), progress }
    }
}

impl Progress for Heard<'_> {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        let mut told = self.told.lock();
        if told.is_none_or(|told| told < stage) && stage != Stage::Completed {
            *told = Some(stage);
            self.progress.report(stage, metadata);
        }
    }
}
