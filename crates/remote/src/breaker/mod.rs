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
mod judge;
mod probe;

pub use actions::GuardedActions;
pub use blobs::GuardedBlobs;
pub use executor::GuardedExecutor;
pub use gate::{Cause, Ticket};
pub use judge::{Call, Effects, Event, Judge, Pass, Talk, Terms};
pub use probe::Probe;

use mortar_model::{ActionResult, Context, Error, Kind, Result};
use parking_lot::Mutex;
use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
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
        let (probing, activity, opened, closed, refused) = Default::default();
        let (limits, judge) = (terms.limits, Mutex::new(Judge::new(terms)));
        Self(Arc::new(Shared {
            name: name.into(),
            judge,
            limits,
            releases: watch::Sender::new([0; 5]),
            probe,
            probing,
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

    /// What `work` gives before patience ends. Where the upstream is busy with other calls meanwhile, it is not silent.
    async fn bounded<T>(
        &self,
        patience: Patience,
        first: Duration,
        limit: Duration,
        longest: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let mut work = pin!(work);
        if matches!(patience, Patience::Endless) {
            return self.while_there(work).await;
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

    /// What `work` gives, however long it takes, unless nobody is there any more: who has heard nothing for a while asks,
    /// the first time sooner than other calls are given up, since the answer has a limit of its own.
    async fn while_there<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Late> {
        let Some(probe) = &self.probe else { return Ok(work.await) };
        let (begun, mut pause) = (Instant::now(), self.limits.0 / 2);
        loop {
            let before = self.activity.load(Ordering::Relaxed);
            if let Ok(value) = tokio::time::timeout(pause, &mut work).await {
                return Ok(value);
            }
            if self.activity.load(Ordering::Relaxed) != before {
                continue;
            }
            let limit = self.judge.lock().limit(Call::LookUp);
            let asked = tokio::time::timeout(limit, probe.probe());
            let answer = tokio::select! {
                biased;
                value = &mut work => return Ok(value),
                answer = asked => answer,
            };
            match answer {
                Ok(Ok(())) => self.touch(),
                // Somebody is there, or the work, which goes the same way, fails as well.
                Ok(Err(_)) => {}
                Err(_) => return Err(Late { waited: begun.elapsed(), silent: true }),
            }
            pause = (pause * 2).min(self.limits.1);
        }
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
    fn first(self, limit: Duration) -> Duration {
        match self {
            Self::WhileBusy(more) => limit + more,
            Self::Bounded | Self::Endless => limit,
        }
    }
}

/// Patience has ended.
struct Late {
    waited: Duration,
    /// Nothing came from the upstream in any other call either.
    silent: bool,
}

/// A call that passed. Tells what it came to, at the latest when it is dropped.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    /// Absent once it was told.
    ticket: Option<Ticket>,
    call: Call,
    limit: Duration,
    /// The most that a limit may be.
    longest: Duration,
    begun: Instant,
    releases: watch::Receiver<[u64; 5]>,
    seen: u64,
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
