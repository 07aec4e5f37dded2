//! How executions ended that the server has not yet confirmed to have heard: told again in the next session.

use mortar_model::{
    Error, Outcome, Result,
    session::{ExecutionId, FromWorker, Held},
};
use std::{collections::VecDeque, error::Error as _};

/// Ends that are kept; the oldest is forgotten for a new one.
const KEPT: usize = 1_024;

/// In the order in which they came about.
#[derive(Default)]
pub(crate) struct Undelivered(VecDeque<(Held, Result<Outcome>)>);

impl Undelivered {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps an end until it is delivered.
    pub(crate) fn keep(&mut self, held: Held, outcome: &Result<Outcome>) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((held, copy(outcome)));
    }

    /// The server has heard of it.
    pub(crate) fn delivered(&mut self, execution: &ExecutionId) {
        self.0.retain(|(held, _)| held.execution != *execution);
    }

    /// What is kept, as a greeting tells it.
    pub(crate) fn held(&self) -> impl Iterator<Item = Held> + '_ {
        self.0.iter().map(|(held, _)| held.clone())
    }

    /// What is kept, to be said again.
    pub(crate) fn again(&self) -> impl Iterator<Item = FromWorker> + '_ {
        self.0.iter().map(|(held, outcome)| FromWorker::Finished {
            execution: held.execution.clone(),
            outcome: Box::new(copy(outcome)),
        })
    }
}

/// Of an error's source, the text.
fn copy(outcome: &Result<Outcome>) -> Result<Outcome> {
    let error = match outcome {
        Ok(outcome) => return Ok(outcome.clone()),
        Err(error) => error,
    };
    let mut copy = Error::new(error.kind().clone());
    if let Some(source) = error.source() {
        copy = copy.with_source(source.to_string());
    }
    if let Some(hint) = error.get_hint() {
        copy = copy.hint(hint);
    }
    Err(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::{Context, Digest, DigestFunction};

    fn held(name: &str) -> Held {
        Held {
            execution: ExecutionId(name.into()),
            context: Context::internal(),
            action_digest: Digest::of(DigestFunction::Sha256, b""),
        }
    }

    #[test]
    fn ends_are_told_again_until_they_are_delivered() {
        let mut undelivered = Undelivered::default();
        let refused = std::io::Error::other("disk on fire");
        undelivered.keep(held("1"), &Err(Error::io("staging", refused).hint("replace the disk")));
        undelivered.keep(held("2"), &Err(Error::internal("stumbled")));
        undelivered.delivered(&ExecutionId("2".into()));
        undelivered.delivered(&ExecutionId("3".into()));
        let told: Vec<_> = undelivered.again().collect();
        let [FromWorker::Finished { execution, outcome }] = &told[..] else { panic!("{told:?}") };
        let text = outcome.as_ref().as_ref().err().map(ToString::to_string);
        assert_eq!(&*execution.0, "1");
        assert_eq!(text.as_deref(), Some("staging failed: disk on fire\nHint: replace the disk"));
        assert_eq!(undelivered.held().count(), 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut undelivered = Undelivered::default();
        for number in 0..KEPT + 10 {
            undelivered.keep(held(&number.to_string()), &Err(Error::internal("")));
        }
        assert_eq!(undelivered.held().count(), KEPT);
        assert_eq!(undelivered.held().next().map(|held| held.execution), Some(ExecutionId("10".into())));
    }
}
