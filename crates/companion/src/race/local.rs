//! This machine as a place to run actions: its slots, and what can run in them.

use super::Suits;
use mortar_model::{Context, Error, ExecuteRequest, Executor, Kind, Outcome, Progress, Result};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An executor on this machine that runs so many actions at a time. Cheap to clone; clones share the slots.
#[derive(Clone)]
pub struct Local {
    executor: Arc<dyn Executor>,
    suits: Arc<dyn Suits>,
    slots: Arc<Semaphore>,
    ran: Arc<AtomicU64>,
}

/// One of the slots, until it is dropped.
pub struct Slot(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

impl Local {
    /// Runs with `executor` what `suits`, `slots` at a time.
    pub fn new(executor: Arc<dyn Executor>, suits: Arc<dyn Suits>, slots: u32) -> Self {
        Self { executor, suits, slots: Arc::new(Semaphore::new(slots as usize)), ran: Arc::default() }
    }

    /// How many actions have run here to their end.
    pub fn ran(&self) -> u64 {
        self.ran.load(Ordering::Relaxed)
    }

    /// A slot for an action that can run here, if one is free now.
    pub async fn free(&self, context: &Context, request: &ExecuteRequest) -> Option<Slot> {
        let slot = self.slots.clone().try_acquire_owned().ok()?;
        match self.suits.refused(context, request.action_digest).await {
            Ok(None) => Some(Slot(slot)),
            Ok(Some(_)) => None,
            // Whoever runs it will say so where it matters.
            Err(error) => {
                tracing::debug!(%error, "whether an action can run here is not known");
                None
            }
        }
    }

    /// Waits for a slot and runs the action there. What cannot run here is refused at once.
    pub async fn run(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        if let Some(why) = self.suits.refused(context, request.action_digest).await? {
            let message = format!("action `{}` cannot run on this machine: {why}", request.action_digest);
            return Err(Error::new(Kind::FailedPrecondition { message }));
        }
        let slot = self.slots.clone().acquire_owned().await;
        let slot = Slot(slot.expect("the slots are never closed"));
        self.run_in(slot, context, request, progress).await
    }

    /// Runs the action in a slot.
    pub async fn run_in(
        &self,
        slot: Slot,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let outcome = self.executor.execute(context, request, progress).await;
        drop(slot);
        self.ran.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
        outcome
    }
}
