//! Executions whose inputs follow: the upstream looks its cache up and waits while they are uploaded.

use super::{Call, Executes};
use futures::future::{Either, select};
use mortar_model::{Context, ExecutionMetadata, InputsFollow, Outcome, Progress, Result, Stage};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// How long the upstream is to wait for inputs; on the slowest line, the rest is sent before another call.
const PATIENCE: Duration = Duration::from_secs(120);
/// With all inputs there as far as is known here, it goes on within this time, or lacks some all the same.
const GOES_ON: Duration = Duration::from_secs(5);

impl Executes {
    /// Executes at once and sends what is missing meanwhile. Only what the inner result tells is the upstream's.
    pub(super) async fn inputs_following(&self, call: &Call<'_>) -> Result<Result<Box<Outcome>>> {
        let inputs_follow = Some(InputsFollow::new(&session(), PATIENCE)?);
        let context = Context { inputs_follow, ..call.context.clone() };
        let stages = Stages { told: call.progress, goes_on: AtomicBool::new(false) };
        let executing = Box::pin(call.execute(&context, &stages));
        let supplying = Box::pin(self.supply(call));
        let executing = match select(executing, supplying).await {
            // It was known there, or it failed: nobody needs the rest.
            Either::Left((outcome, _)) => return Ok(outcome),
            Either::Right((supplied, executing)) => {
                supplied?;
                executing
            }
        };
        tokio::select! {
            outcome = executing => return Ok(outcome),
            () = stages.stand_still() => {}
        }
        // Asked without its waiting, it tells what it lacks.
        self.inputs_first(call).await
    }
}

/// Passes on the stages, and sees whether the upstream has gone on from its look-up.
struct Stages<'a> {
    told: &'a dyn Progress,
    goes_on: AtomicBool,
}

impl Stages<'_> {
    /// Returns if nothing goes on; never, if it does.
    async fn stand_still(&self) {
        tokio::time::sleep(GOES_ON).await;
        if self.goes_on.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

impl Progress for Stages<'_> {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        if stage != Stage::CacheCheck {
            self.goes_on.store(true, Ordering::Relaxed);
        }
        self.told.report(stage, metadata);
    }
}

/// A name for the logs of the upstream.
fn session() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("companion-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
