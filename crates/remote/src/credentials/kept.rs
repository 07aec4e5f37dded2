//! What a source gave for one host: kept in memory, fetched anew at four fifths of its life while calls go on with what
//! there is, fetched once for all who wait, and dropped when a server refuses it.

use super::{Credentials, Grant, Proof};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::Uri;
use mortar_model::{Error, Kind, Result};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// How long a failure answers for all who ask.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// What was fetched because a server refused the one before, and is refused as well, is kept this long: a caller who may
/// not in is no reason to ask the source again and again.
const REFUSED_FOR: Duration = Duration::from_secs(10);

type Fetching = Shared<BoxFuture<'static, Result<Arc<Held>, Failure>>>;

/// One source for one host.
pub(crate) struct Kept {
    source: Arc<dyn Credentials>,
    uri: Uri,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Held>>,
    fetching: Option<Fetching>,
    failed: Option<(Instant, Failure)>,
    /// The next one is fetched because a server refused the one before.
    was_refused: bool,
}

/// A grant and what became of it.
pub(crate) struct Held {
    pub(crate) proof: Proof,
    expires: Option<SystemTime>,
    /// When it is fetched anew while it still serves.
    renew: Option<SystemTime>,
    /// When it does not serve any more.
    spent: Option<SystemTime>,
    fetched: Instant,
    after_refusal: bool,
    has_worked: AtomicBool,
}

impl Held {
    fn new(grant: Grant, asked: SystemTime, after_refusal: bool) -> Self {
        let life = grant.expires.map(|expires| expires.duration_since(asked).unwrap_or_default());
        let until = |share: f64| life.map(|life| asked + life.mul_f64(share));
        let again = grant.look_again.map(|wait| asked + wait);
        Self {
            proof: grant.proof,
            expires: grant.expires,
            renew: [until(0.8), again].into_iter().flatten().min(),
            // What is sent at the very end arrives too late.
            spent: until(0.95),
            fetched: Instant::now(),
            after_refusal,
            has_worked: AtomicBool::new(false),
        }
    }

    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// A server took it.
    pub(crate) fn worked(&self) {
        if !self.has_worked.load(Relaxed) {
            self.has_worked.store(true, Relaxed);
        }
    }
}

/// A failure that many hear of.
#[derive(Clone)]
struct Failure {
    is_final: bool,
    message: String,
}

impl From<Failure> for Error {
    fn from(Failure { is_final, message }: Failure) -> Self {
        Self::new(match is_final {
            true => Kind::Unauthenticated { message },
            false => Kind::Unavailable { message, retry_after: None },
        })
    }
}

impl Kept {
    pub(crate) fn new(source: Arc<dyn Credentials>, uri: Uri) -> Arc<Self> {
        Arc::new(Self { source, uri, state: Mutex::default() })
    }

    /// What serves now. Waits only where nothing does.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Arc<Held>> {
        let fetching = {
            let mut state = self.state.lock();
            let now = SystemTime::now();
            if let Some(held) = &state.current {
                let held = held.clone();
                let is_past = |time: Option<SystemTime>| time.is_some_and(|time| time <= now);
                if !is_past(held.spent) {
                    if is_past(held.renew) && !state.has_just_failed() {
                        // A task drives it; nobody here waits for it.
                        drop(self.fetch(&mut state));
                    }
                    return Ok(held);
                }
            }
            if let Some((_, failure)) = state.failed.as_ref().filter(|_| state.has_just_failed()) {
                return Err(failure.clone().into());
            }
            self.fetch(&mut state)
        };
        fetching.await.map_err(Error::from)
    }

    /// A server refused this one: it is not used any more. Whether another may do better.
    pub(crate) fn refuse(&self, refused: &Arc<Held>) -> bool {
        let mut state = self.state.lock();
        if !state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, refused)) {
            // It was replaced, or is being replaced, already.
            return true;
        }
        let in_vain = refused.after_refusal
            && !refused.has_worked.load(Relaxed)
            && refused.fetched.elapsed() < REFUSED_FOR;
        if in_vain {
            return false;
        }
        tracing::debug!(source = self.source.name(), uri = %self.uri, "credentials were refused; fetching others");
        state.current = None;
        state.was_refused = true;
        true
    }

    /// Joins the fetch that is under way, or begins one.
    fn fetch(self: &Arc<Self>, state: &mut State) -> Fetching {
        if let Some(fetching) = &state.fetching {
            return fetching.clone();
        }
        let this = self.clone();
        let after_refusal = std::mem::take(&mut state.was_refused);
        // A task of its own: it goes on when those who wait go away, and what it brings is of use to the next.
        let task = tokio::spawn(async move {
            let asked = SystemTime::now();
            let granted = this.source.grant(&this.uri).await;
            this.enter(granted, asked, after_refusal)
        });
        let fetching = async move {
            let lost = |_| Failure { is_final: false, message: "fetching credentials was broken off".into() };
            task.await.unwrap_or_else(|error| Err(lost(error)))
        };
        let fetching = fetching.boxed().shared();
        state.fetching = Some(fetching.clone());
        fetching
    }

    fn enter(
        &self,
        granted: Result<Grant>,
        asked: SystemTime,
        after_refusal: bool,
    ) -> Result<Arc<Held>, Failure> {
        let mut state = self.state.lock();
        state.fetching = None;
        match granted {
            Ok(grant) => {
                let held = Arc::new(Held::new(grant, asked, after_refusal));
                (state.current, state.failed) = (Some(held.clone()), None);
                Ok(held)
            }
            Err(error) => {
                let failure = self.failure(&error);
                tracing::warn!("{}", failure.message);
                state.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn failure(&self, error: &Error) -> Failure {
        let mut message = format!("no credentials for `{}` from {}: {error}", self.uri, self.source.name());
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        let is_final = !matches!(error.kind(), Kind::Unavailable { .. } | Kind::DeadlineExceeded { .. });
        Failure { is_final, message }
    }
}

impl State {
    fn has_just_failed(&self) -> bool {
        self.failed.as_ref().is_some_and(|(when, _)| when.elapsed() < FAILED_FOR)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Secret, bearer::authorization};
    use super::*;
    use async_trait::async_trait;
    use std::sync::atomic::AtomicU32;

    /// Gives numbered tokens, each of this life, or fails.
    #[derive(Debug)]
    struct Numbered {
        given: AtomicU32,
        life: Duration,
        fails: AtomicBool,
        gate: tokio::sync::Semaphore,
    }

    #[async_trait]
    impl Credentials for Numbered {
        fn name(&self) -> String {
            "numbers".into()
        }

        async fn grant(&self, _: &Uri) -> Result<Grant> {
            self.gate.acquire().await.unwrap().forget();
            let number = self.given.fetch_add(1, Relaxed);
            if self.fails.load(Relaxed) {
                return Err(Error::internal("out of numbers"));
            }
            let proof = authorization("Bearer", &Secret::new(number.to_string()), "a number")?;
            Ok(Grant { proof, expires: Some(SystemTime::now() + self.life), look_again: None })
        }
    }

    fn kept(life: Duration, open: usize) -> (Arc<Numbered>, Arc<Kept>) {
        let gate = tokio::sync::Semaphore::new(open);
        let source = Arc::new(Numbered { given: 0.into(), life, fails: false.into(), gate });
        (source.clone(), Kept::new(source, "https://host:1".parse().unwrap()))
    }

    fn number(held: &Held) -> String {
        let Proof::Headers(headers) = &held.proof else { panic!("headers") };
        headers[http::header::AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn all_who_wait_share_one_fetch_even_if_the_first_goes_away() {
        let (source, kept) = kept(Duration::from_secs(60), 0);
        let first = tokio::spawn({
            let kept = kept.clone();
            async move { kept.get().await.map(drop) }
        });
        let others: Vec<_> = (0..100).map(|_| kept.get()).collect();
        tokio::task::yield_now().await;
        first.abort();
        source.gate.add_permits(1);
        for held in futures::future::join_all(others).await {
            assert_eq!(number(&held.unwrap()), "Bearer 0");
        }
        assert_eq!(source.given.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_due_serves_until_another_is_there() {
        let (source, kept) = kept(Duration::from_secs(60), 1);
        kept.get().await.unwrap();
        let due = Held { renew: Some(SystemTime::now()), ..aged(&kept) };
        kept.state.lock().current = Some(Arc::new(due));
        assert_eq!(number(&kept.get().await.unwrap()), "Bearer 0", "the fetch waits at the gate");
        source.gate.add_permits(1);
        let fetching = kept.state.lock().fetching.clone();
        let fetched = fetching.expect("a fetch is under way").await.map_err(Error::from).unwrap();
        assert_eq!(number(&fetched), "Bearer 1");
        assert_eq!(number(&kept.get().await.unwrap()), "Bearer 1");
    }

    /// The current one as a value of its own.
    fn aged(kept: &Kept) -> Held {
        let state = kept.state.lock();
        let current = state.current.as_ref().unwrap();
        Held {
            proof: current.proof.clone(),
            has_worked: AtomicBool::new(current.has_worked.load(Relaxed)),
            ..**current
        }
    }

    #[tokio::test]
    async fn what_is_spent_is_waited_for_and_a_failed_renewal_is_none_while_it_serves() {
        let (source, kept) = kept(Duration::from_secs(60), 9);
        kept.get().await.unwrap();
        source.fails.store(true, Relaxed);
        let due = Held { renew: Some(SystemTime::now()), ..aged(&kept) };
        kept.state.lock().current = Some(Arc::new(due));
        assert_eq!(number(&kept.get().await.unwrap()), "Bearer 0");
        let fetching = kept.state.lock().fetching.clone();
        if let Some(fetching) = fetching {
            assert!(fetching.await.is_err());
        }
        assert_eq!(number(&kept.get().await.unwrap()), "Bearer 0");
        let spent = Held { spent: Some(SystemTime::now()), ..aged(&kept) };
        kept.state.lock().current = Some(Arc::new(spent));
        let error = kept.get().await.map(drop).unwrap_err();
        assert!(error.to_string().contains("`https://host:1/` from numbers: out of numbers"), "{error}");
        let asked = source.given.load(Relaxed);
        assert!(kept.get().await.is_err());
        assert_eq!(source.given.load(Relaxed), asked, "a failure answers for a while");
    }

    #[tokio::test]
    async fn refusal_brings_another_and_refusals_in_a_row_do_not() {
        let (source, kept) = kept(Duration::from_secs(60), 9);
        let first = kept.get().await.unwrap();
        assert!(kept.refuse(&first));
        let second = kept.get().await.unwrap();
        assert!(kept.refuse(&first), "it was replaced");
        assert_eq!((number(&second).as_str(), source.given.load(Relaxed)), ("Bearer 1", 2));
        assert!(!kept.refuse(&second), "fetched after a refusal, refused as well");
        second.worked();
        assert!(kept.refuse(&second), "it did work");
    }

    #[test]
    fn life_is_divided() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let proof = Proof::Headers(http::HeaderMap::new());
        let grant = |expires, look_again| Grant { proof: proof.clone(), expires, look_again };
        let held = Held::new(grant(Some(now + 100 * second), None), now, false);
        assert_eq!((held.renew, held.spent), (Some(now + 80 * second), Some(now + 95 * second)));
        let held = Held::new(grant(None, Some(10 * second)), now, false);
        assert_eq!((held.renew, held.spent), (Some(now + 10 * second), None));
        let held = Held::new(grant(None, None), now, false);
        assert_eq!((held.renew, held.spent), (None, None));
    }
}
