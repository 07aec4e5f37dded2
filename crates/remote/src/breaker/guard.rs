//! A call under way: waits for it, and tells the judge what it came to.

use super::{
    Call, Event, Fault, Refusal, Shared, Ticket, fault,
    waiting::{Late, Patience},
};
use mortar_model::{Context, Error, Kind, Result};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// A call that passed. Tells what it came to, at the latest when it is dropped.
pub(crate) struct Guard {
    pub(super) shared: Arc<Shared>,
    /// Absent once it was told.
    pub(super) ticket: Option<Ticket>,
    pub(super) call: Call,
    pub(super) limit: Duration,
    /// The most that a limit may be.
    pub(super) longest: Duration,
    pub(super) begun: Instant,
    pub(super) releases: watch::Receiver<[u64; 5]>,
    pub(super) seen: u64,
}

impl Guard {
    /// What `work` gives, unless patience with it ends, or it is released before.
    pub(crate) async fn timely<T>(&mut self, patience: Patience, work: impl Future<Output = T>) -> Result<T> {
        let (call, seen) = (self.call as usize, self.seen);
        let (shared, first, limit, longest) =
            (self.shared.clone(), patience.first(self.limit), self.limit, self.longest);
        let released = self.releases.wait_for(|releases| releases[call] != seen);
        let bounded = shared.bounded(patience, first, limit, longest, work);
        let outcome = tokio::select! {
            biased;
            outcome = bounded => Some(outcome),
            _ = released => None,
        };
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(Late { waited, silent })) => {
                self.tell(if silent { Event::Silent } else { Event::Failed });
                let (name, call, waited) = (&self.shared.name, self.call, waited.as_secs_f64());
                let message = format!("upstream `{name}` did not answer in {waited:.1} s ({call})");
                Err(Error::new(Kind::Unavailable { message, retry_after: None }).with_source(Refusal(call)))
            }
            None => Err(self.shared.refusal(self.call)),
        }
    }

    /// More of its answer came.
    pub(crate) fn progressed(&self) {
        self.shared.touch();
    }

    /// How long it is under way.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// It was answered, in this time.
    pub(crate) fn answered(&mut self, took: Duration) {
        self.shared.touch();
        self.tell(|ticket| Event::Answered(ticket, took));
    }

    /// It failed with this.
    pub(crate) fn came_to(&mut self, context: &Context, error: &Error) {
        let late = context.deadline.is_some_and(|deadline| deadline <= Instant::now().into_std());
        match fault(error) {
            Fault::Upstream if late => self.tell(Event::Left),
            Fault::Upstream => self.tell(Event::Failed),
            // An upstream that refuses answers all the same.
            Fault::Call => {
                let took = self.elapsed();
                self.answered(took);
            }
            Fault::Nobody => self.tell(Event::Left),
        }
    }

    fn tell(&mut self, event: impl FnOnce(Ticket) -> Event) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.apply(event(ticket));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.tell(Event::Left);
    }
}
