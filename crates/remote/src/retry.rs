//! Which failures may pass, how often they are met with another try, and how long is waited before it.

use mortar_model::{Context, Error, Kind, Result};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// Bounds on repetition. The n-th wait is drawn from the upper half of `first_wait` × 2ⁿ, which spreads the callers of a
/// server that comes back; a server that names a time itself (RetryInfo) is asked no sooner.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Tries in a row that bring no progress, the first one included.
    pub attempts: u32,
    /// The wait after the first failure.
    pub first_wait: Duration,
    /// The longest wait. A server that wants more is not asked again; the error says when it wants to be asked.
    pub longest_wait: Duration,
}

impl Default for Retry {
    /// Some ten seconds in all, in which a server can be restarted.
    fn default() -> Self {
        Self { attempts: 8, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(5) }
    }
}

impl Retry {
    /// One try and no more; a call that an ending server did not take is none.
    pub const NEVER: Self = Self { attempts: 1, first_wait: Duration::ZERO, longest_wait: Duration::ZERO };

    /// One more try, soon. For what stands behind a breaker: it learns of a failure once it is known here, and takes the
    /// waits for silence; and there is somebody who comes again.
    pub const BRIEF: Self =
        Self { attempts: 2, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(1) };
}

/// How often a call is made anew because the server was ending and did not take it, and the wait before, in which the
/// connection is seen to be of no use any more.
const UNTAKEN: u32 = 3;
const UNTAKEN_WAIT: Duration = Duration::from_millis(1);

/// The source of an error by which the server, or what is left of the connection to it, did not begin with the call: it
/// is made anew over another connection, and nobody hears of it.
#[derive(Debug)]
pub(crate) struct Untaken(pub(crate) String);

impl fmt::Display for Untaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Untaken {}

/// Counts the failures of one undertaking.
pub(crate) struct Backoff {
    retry: Retry,
    failures: u32,
    untaken: u32,
    deadline: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(retry: &Retry, context: &Context) -> Self {
        Self { retry: retry.clone(), failures: 0, untaken: 0, deadline: context.deadline }
    }

    /// Something was achieved: what fails from here on is counted anew.
    pub(crate) fn progressed(&mut self) {
        (self.failures, self.untaken) = (0, 0);
    }

    /// Waits before another try, or gives the error back if there is to be none.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        if is_untaken(&error) && self.untaken < UNTAKEN {
            self.untaken += 1;
            tracing::debug!(%error, "calling again");
            tokio::time::sleep(UNTAKEN_WAIT).await;
            return Ok(());
        }
        self.failures += 1;
        if !is_transient(&error) || self.failures >= self.retry.attempts {
            return Err(error);
        }
        let asked = error.retry_after().filter(|_| !matches!(error.kind(), Kind::Aborted { .. }));
        let wait = self.wait().max(asked.unwrap_or_default());
        let too_late = self.deadline.is_some_and(|deadline| Instant::now() + wait >= deadline);
        if wait > self.retry.longest_wait || too_late {
            return Err(error);
        }
        tracing::debug!(%error, failures = self.failures, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn wait(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        let whole = self.retry.first_wait.saturating_mul(factor).min(self.retry.longest_wait);
        let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
        whole.mul_f64(0.5 + (random >> 40) as f64 / (1u64 << 25) as f64)
    }
}

fn is_untaken(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<Untaken>)
}

/// Whether the same call may succeed later without anybody doing anything about it.
pub(crate) fn is_transient(error: &Error) -> bool {
    match error.kind() {
        Kind::Unavailable { .. } | Kind::Aborted { .. } => true,
        Kind::ResourceExhausted { retry_after, .. } => retry_after.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(retry_after: Option<Duration>) -> Error {
        Error::new(Kind::Unavailable { message: "away".into(), retry_after })
    }

    fn backoff(attempts: u32) -> Backoff {
        let retry =
            Retry { attempts, first_wait: Duration::from_millis(8), longest_wait: Duration::from_millis(32) };
        Backoff::new(&retry, &Context::internal())
    }

    #[tokio::test]
    async fn tries_are_bounded_and_counted_anew_after_progress() {
        let mut backoff = backoff(3);
        for _ in 0..4 {
            assert!(backoff.pause(unavailable(None)).await.is_ok());
            assert!(backoff.pause(unavailable(None)).await.is_ok());
            backoff.progressed();
        }
        assert!(backoff.pause(unavailable(None)).await.is_ok());
        assert!(backoff.pause(unavailable(None)).await.is_ok());
        assert!(backoff.pause(unavailable(None)).await.is_err());
    }

    #[tokio::test]
    async fn what_was_not_taken_is_no_try() {
        let untaken = || unavailable(None).with_source(Untaken("going away".into()));
        let mut once = Backoff::new(&Retry::NEVER, &Context::internal());
        for _ in 0..UNTAKEN {
            assert!(once.pause(untaken()).await.is_ok());
        }
        assert!(once.pause(untaken()).await.is_err());
        once.progressed();
        assert!(once.pause(untaken()).await.is_ok());
        assert!(once.pause(unavailable(None)).await.is_err());
    }

    #[tokio::test]
    async fn what_cannot_pass_is_not_tried_again() {
        assert!(backoff(9).pause(Error::internal("defect")).await.is_err());
        assert!(backoff(9).pause(unavailable(Some(Duration::from_secs(3600)))).await.is_err());
        let deadline = Some(Instant::now());
        let context = Context { deadline, ..Context::internal() };
        let mut late = Backoff::new(&Retry::default(), &context);
        assert!(late.pause(unavailable(None)).await.is_err());
        let mut once = Backoff::new(&Retry::NEVER, &Context::internal());
        assert!(once.pause(unavailable(None)).await.is_err());
        // What a full server of ours says.
        let mut brief = Backoff::new(&Retry::BRIEF, &Context::internal());
        assert!(brief.pause(unavailable(Some(Duration::from_secs(5)))).await.is_err());
    }

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = backoff(100);
        for failures in 1..70 {
            backoff.failures = failures;
            let wait = backoff.wait();
            let whole = Duration::from_millis(8 * (1 << (failures - 1).min(2)));
            assert!(wait >= whole / 2 && wait <= whole, "{failures}: {wait:?}");
        }
    }
}
