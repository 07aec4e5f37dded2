//! The breaker: an upstream that fails, falls silent or is of no use is left alone until it is better, so that a build goes
//! on as if there were none.
//!
//! [`judge`](Judge) decides, without a clock and without I/O; this module gives it both, and the decorators
//! ([`GuardedBlobs`], [`GuardedActions`], [`GuardedExecutor`]) put it before the ports. While a gate is open, look-ups are
//! misses, and everything else fails at once with an error that [`is_refusal`] knows: the companion then keeps writes in its
//! journal and has its own worker execute. Calls that are under way when an
//! upstream falls silent are released at once.
//!
//! What stands below should itself try little: time that it spends on repeating counts as silence here.

mod actions;
mod blobs;
mod executor;
mod gate;
mod guard;
mod judge;
mod probe;
mod waiting;

pub use actions::GuardedActions;
pub use blobs::GuardedBlobs;
pub use executor::GuardedExecutor;
pub use gate::{Cause, Ticket};
use guard::Guard;
pub use judge::{Call, Effects, Event, Judge, Pass, Talk, Terms};
pub use probe::Probe;
use waiting::Patience;

use mortar_model::{ActionResult, Context, Error, Kind, Result};
use parking_lot::Mutex;
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The breaker of one upstream. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Breaker(Arc<Shared>);

struct Shared {
    /// The upstream, for people.
    name: String,
    judge: Mutex<Judge>,
    /// Bounds of the time in which an answer must come.
    limits: (Duration, Duration),
    /// How often calls of each kind were released: what is under way goes by a change of it.
    releases: watch::Sender<[u64; 5]>,
    probe: Option<Arc<dyn Probe>>,
    probing: AtomicBool,
    /// Calls that may take any time, and whether somebody sees to them.
    endless: AtomicU64,
    watched: AtomicBool,
    /// Counts what came from the upstream, in any call: while it comes, no call is a silent one.
    activity: AtomicU64,
    /// Why gates are open, for those who wait for them to close.
    open: watch::Sender<[Option<Cause>; 5]>,
    opened: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
}

/// How a breaker stands, and what it did so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why the gate of each kind in [`Call::ALL`] is open.
    pub open: [Option<Cause>; 5],
    /// How often people were told that it opened.
    pub opened: u64,
    /// How often they were told that it closed.
    pub closed: u64,
    /// Calls that were refused or released.
    pub refused: u64,
}

impl Breaker {
    /// A breaker for the upstream that people know as `name`. Without a probe, callers have to try whether a silent
    /// upstream is back.
    pub fn new(name: impl Into<String>, terms: Terms, probe: Option<Arc<dyn Probe>>) -> Self {
        let (probing, endless, watched, activity, opened, closed, refused) = Default::default();
        let (limits, judge) = (terms.limits, Mutex::new(Judge::new(terms)));
        Self(Arc::new(Shared {
            name: name.into(),
            judge,
            limits,
            releases: watch::Sender::new([0; 5]),
            probe,
            probing,
            endless,
            watched,
            activity,
            open: watch::Sender::new([None; 5]),
            opened,
            closed,
            refused,
        }))
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        Standing {
            open: self.0.judge.lock().open(),
            opened: self.0.opened.load(Ordering::Relaxed),
            closed: self.0.closed.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }

    /// A result was of use: the look-up and the downloads that it led to took `cost`. Told by whoever knows both; what the
    /// action had taken is told by the result. A result that does not say is not judged.
    pub fn hit(&self, cost: Duration, result: &ActionResult) {
        if let Some(gain) = execution_time(result) {
            self.0.apply(Event::Hit { cost, gain });
        }
    }

    /// A call that no port stands for, with one answer and this many bytes to send: what `work` comes to, if the gate lets it
    /// pass, it is not released, and it is answered in time.
    pub async fn call<T>(
        &self,
        context: &Context,
        call: Call,
        bytes: u64,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let more = blobs::time_to_send(bytes);
        let patience = match call {
            Call::LookUp => Patience::Bounded,
            Call::Execute => Patience::Endless,
            Call::Read | Call::Write | Call::FindMissing => Patience::WhileBusy(more),
        };
        let (value, mut guard) = self.guard(context, call, patience, work).await?;
        let took = guard.elapsed().saturating_sub(more);
        guard.answered(took);
        Ok(value)
    }

    /// Returns when the last gate closes; never, where none is open.
    pub async fn closes(&self) {
        let mut open = self.0.open.subscribe();
        if !is_open(&open.borrow_and_update()) {
            return std::future::pending().await;
        }
        // The sender lives as long as `self`.
        let _ = open.wait_for(|open| !is_open(open)).await;
    }

    /// What `work` comes to, if the gate lets it pass, it is not released, and `patience` does not end.
    pub(crate) async fn guard<T>(
        &self,
        context: &Context,
        call: Call,
        patience: Patience,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Guard)> {
        let mut guard = self.enter(call)?;
        match guard.timely(patience, work).await? {
            Ok(value) => Ok((value, guard)),
            Err(error) => {
                guard.came_to(context, &error);
                Err(error)
            }
        }
    }

    fn enter(&self, call: Call) -> Result<Guard> {
        // Before the judge is asked, lest a release in between go unseen.
        let mut releases = self.0.releases.subscribe();
        let seen = releases.borrow_and_update()[call as usize];
        match self.0.apply(Event::Ask(call)).pass {
            Some(Pass { ticket, limit }) => {
                let begun = Instant::now();
                let (shared, longest) = (self.0.clone(), self.0.limits.1);
                Ok(Guard { shared, ticket: Some(ticket), call, limit, longest, begun, releases, seen })
            }
            None => Err(self.0.refusal(call)),
        }
    }
}

impl Shared {
    fn apply(self: &Arc<Self>, event: Event) -> Effects {
        let (effects, probe) = {
            let mut judge = self.judge.lock();
            let effects = judge.apply(Instant::now().into_std(), event);
            (effects, judge.probe_in().is_some())
        };
        if effects.released.contains(&true) {
            self.releases.send_modify(|releases| {
                releases.iter_mut().zip(effects.released).for_each(|(count, now)| *count += u64::from(now));
            });
        }
        if probe {
            probe::start(self);
        }
        // Asked for anew: of two who come here at once, the later one may have been judged first.
        self.open.send_if_modified(|open| {
            let before = std::mem::replace(open, self.judge.lock().open());
            before != *open
        });
        match effects.talk {
            Some(Talk::Opened(call, cause)) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("upstream `{}` is left alone until it is better ({call}: {cause})", self.name);
            }
            Some(Talk::Closed) => {
                self.closed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("upstream `{}` is used again", self.name);
            }
            None => {}
        }
        effects
    }

    /// Something came from the upstream, or was taken by it.
    fn touch(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }

    fn refusal(&self, call: Call) -> Error {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let why = self.judge.lock().open()[call as usize].map(|cause| format!(" ({cause})"));
        let name = &self.name;
        let message = format!(
            "upstream `{name}` is left alone for now, as far as {call} go{}",
            why.unwrap_or_default()
        );
        Error::new(Kind::Unavailable { message, retry_after: None }).with_source(Refusal(call))
    }
}

enum Fault {
    Upstream,
    Call,
    Nobody,
}

/// Whose fault an error is, as far as it tells of the upstream's health.
fn fault(error: &Error) -> Fault {
    match error.kind() {
        Kind::Unavailable { .. }
        | Kind::DeadlineExceeded { .. }
        | Kind::Aborted { .. }
        | Kind::ResourceExhausted { .. }
        | Kind::DataLoss { .. }
        | Kind::Io { .. }
        | Kind::Internal { .. } => Fault::Upstream,
        Kind::Mismatch { source_of_content: mortar_model::Blame::Client, .. } => Fault::Nobody,
        Kind::Mismatch { .. } => Fault::Upstream,
        Kind::NotFound { .. }
        | Kind::MissingBlobs { .. }
        | Kind::FailedPrecondition { .. }
        | Kind::OutOfRange { .. }
        | Kind::InvalidArgument { .. }
        | Kind::PermissionDenied { .. }
        | Kind::Unauthenticated { .. }
        | Kind::Unimplemented { .. } => Fault::Call,
        Kind::Cancelled { .. } => Fault::Nobody,
    }
}

fn is_open(open: &[Option<Cause>; 5]) -> bool {
    open.iter().any(Option::is_some)
}

/// Why a call failed at once.
#[derive(Debug)]
struct Refusal(Call);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the breaker stands before {}", self.0)
    }
}

impl std::error::Error for Refusal {}

/// Whether a breaker made this error, or what caused it: the upstream was not asked, or not waited for any longer.
pub fn is_refusal(error: &Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.into_iter().any(|cause| cause.is::<Refusal>())
}

/// How long the action took on its worker, as far as its result tells.
pub fn execution_time(result: &ActionResult) -> Option<Duration> {
    let metadata = &result.metadata;
    let interval = || metadata.execution_completed?.duration_since(metadata.execution_start?).ok();
    metadata.virtual_execution_duration.or_else(interval)
}
