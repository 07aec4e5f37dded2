//! The breaker before an upstream that hangs, fails, denies, stalls and comes back: in time that the tests turn on, and over
//! the loopback through a relay that swallows or breaks connections.

mod moody;

use crate::{
    fake::{self, Fake, content, context},
    http::cache::{Cache, Speaks},
};
use bytes::Bytes;
use moody::{Mood, Moody};
use mortar_model::{
    ActionCache, ActionResult, BlobStore, BlobStoreExt, DigestSet, ExecuteRequest, Executor, Kind, Range,
};
use mortar_remote::{
    Endpoint, HttpOptions, HttpUpstream, Options, Retry,
    breaker::{
        Breaker, Call, Cause, GuardedActions, GuardedBlobs, GuardedExecutor, Probe, Terms, is_refusal,
    },
};
use mortar_testkit::network::{Link, Relay, State};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// An upstream behind its breaker.
struct Guarded {
    breaker: Breaker,
    blobs: GuardedBlobs,
    actions: GuardedActions,
    executor: GuardedExecutor,
}

fn guarded(upstream: &Arc<Moody>, terms: Terms) -> Guarded {
    guarded_as("far", upstream, terms)
}

fn guarded_as<U>(name: &str, upstream: &Arc<U>, terms: Terms) -> Guarded
where
    U: BlobStore + ActionCache + Executor + Probe + 'static,
{
    let breaker = Breaker::new(name, terms, Some(upstream.clone()));
    Guarded {
        blobs: GuardedBlobs::new(upstream.clone(), breaker.clone()),
        actions: GuardedActions::new(upstream.clone(), breaker.clone()),
        executor: GuardedExecutor::new(upstream.clone(), breaker.clone()),
        breaker,
    }
}

impl Guarded {
    async fn look_up(&self) -> bool {
        self.actions.get(&context(), content(3).0.into()).await.unwrap().is_some()
    }

    async fn look_up_at_once(&self, count: usize) -> usize {
        let found = futures::future::join_all((0..count).map(|_| self.look_up())).await;
        found.into_iter().filter(|found| *found).count()
    }

    async fn execute(&self) -> mortar_model::Result<()> {
        let request = ExecuteRequest { action_digest: content(3).0, skip_cache_lookup: false, priority: 0 };
        self.executor.execute(&context(), request, &()).await.map(drop)
    }

    fn is_closed(&self) -> bool {
        self.breaker.standing().open == [None; 5]
    }

    /// Waits until all gates are closed.
    async fn closes(&self, within: Duration) {
        let deadline = Instant::now() + within;
        while !self.is_closed() {
            assert!(Instant::now() < deadline, "not closed within {within:?}: {:?}", self.breaker.standing());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What is said aloud meanwhile.
#[derive(Clone, Default)]
struct Said(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Said {
    fn lines(&self) -> Vec<String> {
        let said = String::from_utf8(self.0.lock().clone()).unwrap();
        said.lines().filter(|line| line.contains("`hole`")).map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_a_few_seconds_once() {
    // Of all tests in this process: what is said where cannot be told by thread.
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let moody = Moody::new(Mood::Well);
    let far = guarded_as("hole", &moody, Terms::default());
    assert_eq!(far.look_up_at_once(50).await, 50);
    moody.set(Mood::Executes);
    let (digest, bytes) = content(10);

    let begun = Instant::now();
    let executing = far.execute();
    let looking = async {
        // The execution is under way by now.
        tokio::task::yield_now().await;
        moody.set(Mood::Hangs);
        assert_eq!(far.look_up_at_once(200).await, 0);
    };
    let (executed, ()) = futures::join!(executing, looking);
    assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());
    assert!(is_refusal(&executed.unwrap_err()), "what was under way is released");
    assert_eq!(far.breaker.standing().open, [Some(Cause::Silence); 5]);

    // From now on nobody waits, and nobody calls.
    let (begun, calls) = (Instant::now(), moody.calls());
    for _ in 0..100 {
        assert!(!far.look_up().await);
        let write = far.blobs.write_bytes(&context(), digest, bytes.clone()).await.unwrap_err();
        let read = far.blobs.read(&context(), digest, Range::ALL).await.unwrap_err();
        let find = far.blobs.find_missing(&context(), &DigestSet::from_iter([digest])).await.unwrap_err();
        let put = far.actions.put(&context(), digest.into(), ActionResult::default()).await.unwrap_err();
        for error in [write, read, find, put, far.execute().await.unwrap_err()] {
            assert!(is_refusal(&error) && matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("left alone"), "{error}");
        }
    }
    assert_eq!((begun.elapsed(), moody.calls()), (Duration::ZERO, calls));

    tokio::time::sleep(60 * SECOND).await;
    moody.set(Mood::Well);
    far.closes(10 * SECOND).await;
    assert_eq!(far.look_up_at_once(50).await, 50);
    let standing = far.breaker.standing();
    assert_eq!((standing.opened, standing.closed), (1, 1));
    let lines = said.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("WARN")
            && lines[0].contains("`hole` is left alone")
            && lines[0].contains("look-ups")
    );
    assert!(lines[1].contains("`hole` is used again"), "{lines:?}");
}

/// They may take any time, and nobody else calls who would notice.
#[tokio::test(start_paused = true)]
async fn executions_alone_notice_that_nobody_is_there() {
    let moody = Moody::new(Mood::Executes);
    let far = guarded(&moody, Terms::default());
    let executing = futures::future::join_all((0..2).map(|_| far.execute()));
    let leaving = async {
        tokio::time::sleep(600 * SECOND).await;
        moody.set(Mood::Hangs);
        Instant::now()
    };
    let (executed, left) = futures::join!(executing, leaving);
    assert!(left.elapsed() <= 11 * SECOND, "{:?}", left.elapsed());
    for outcome in executed {
        assert!(is_refusal(&outcome.unwrap_err()));
    }
    assert_eq!(far.breaker.standing().open, [Some(Cause::Silence); 5]);
}

#[tokio::test(start_paused = true)]
async fn executions_that_wait_ask_together_whether_anybody_is_there() {
    let moody = Moody::new(Mood::Executes);
    let far = guarded(&moody, Terms::default());
    let executing = futures::future::join_all((0..1_000).map(|_| far.execute()));
    let given_up = tokio::time::timeout(60 * SECOND, executing).await;
    assert!(given_up.is_err(), "they wait for as long as it takes");
    assert_eq!(moody.calls(), 1_000);
    // After half a second, 1, 2, 4 and then every 5 s.
    assert!((10..=20).contains(&moody.probes()), "{}", moody.probes());
    assert!(far.is_closed());
}

#[tokio::test(start_paused = true)]
async fn errors_concern_the_calls_that_fail() {
    let moody = Moody::new(Mood::Fails);
    let far = guarded(&moody, Terms::default());
    let (digest, bytes) = content(10);
    for _ in 0..5 {
        let error = far.blobs.write_bytes(&context(), digest, bytes.clone()).await.unwrap_err();
        assert!(!is_refusal(&error), "{error}");
    }
    let error = far.blobs.write_bytes(&context(), digest, bytes.clone()).await.unwrap_err();
    assert!(is_refusal(&error), "{error}");
    moody.set(Mood::Well);
    assert!(far.look_up().await);
    assert_eq!(far.breaker.standing().open[Call::Write as usize], Some(Cause::Errors));
    // Of those who want to write, one tries, and then all may.
    let deadline = Instant::now() + 10 * SECOND;
    while far.blobs.write_bytes(&context(), digest, bytes.clone()).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(far.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_failing_look_up_is_a_miss_and_a_denied_one_is_told() {
    let moody = Moody::new(Mood::Fails);
    let far = guarded(&moody, Terms::default());
    assert_eq!(far.look_up_at_once(20).await, 0);
    assert!(moody.calls() <= 20);
    let moody = Moody::new(Mood::Denies);
    let far = guarded(&moody, Terms::default());
    for _ in 0..50 {
        let error = far.actions.get(&context(), content(3).0.into()).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::PermissionDenied { .. }) && !is_refusal(&error), "{error}");
    }
    assert!(far.is_closed(), "who denies is there");
}

#[tokio::test(start_paused = true)]
async fn downloads_that_stall_end_when_the_gate_opens() {
    let moody = Moody::new(Mood::Stalls);
    let far = guarded(&moody, Terms::default());
    let (digest, _) = content(10);
    let reads = (0..10).map(|_| async {
        far.blobs.read(&context(), digest, Range::ALL).await.unwrap().into_bytes().await.unwrap_err()
    });
    let begun = Instant::now();
    let errors = futures::future::join_all(reads).await;
    assert!(errors.iter().all(is_refusal), "{errors:?}");
    assert!(begun.elapsed() <= 11 * SECOND);
    assert_eq!(far.breaker.standing().open, [Some(Cause::Silence); 5]);
}

/// On a thin line everything is slow and nothing is silent.
#[tokio::test(start_paused = true)]
async fn who_is_busy_is_not_silent() {
    let moody = Moody::new(Mood::Trickles);
    let far = guarded(&moody, Terms::default());
    let (digest, _) = content(10);
    let slow = far.blobs.read(&context(), digest, Range::ALL).await.unwrap();
    let (whole, missing) = futures::join!(slow.into_bytes(), async {
        moody.set(Mood::Slow(20 * SECOND));
        far.blobs.find_missing(&context(), &DigestSet::from_iter([digest])).await
    });
    assert_eq!(whole.unwrap(), Bytes::from(vec![b'x'; 10]));
    assert!(missing.unwrap().is_empty());
    assert!(far.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_slower_than_building_is_of_no_use() {
    let moody = Moody::new(Mood::Well);
    let far = guarded(&moody, Terms::default());
    let start = SystemTime::UNIX_EPOCH;
    let mut result = ActionResult::default();
    far.breaker.hit(SECOND, &result);
    result.metadata.execution_start = Some(start);
    result.metadata.execution_completed = Some(start + SECOND / 2);
    for _ in 0..20 {
        assert!(far.look_up().await);
        far.breaker.hit(SECOND, &result);
    }
    assert!(!far.look_up().await);
    let (digest, bytes) = content(10);
    assert!(is_refusal(&far.blobs.read(&context(), digest, Range::ALL).await.unwrap_err()));
    far.blobs.write_bytes(&context(), digest, bytes).await.unwrap();
    tokio::time::sleep(4 * SECOND).await;
    for _ in 0..3 {
        assert!(far.look_up().await);
        far.breaker.hit(SECOND / 10, &result);
    }
    assert!(far.is_closed());
}

/// Short times, for tests in real time.
fn quick() -> Terms {
    let ms = Duration::from_millis;
    Terms { limits: (ms(500), ms(2000)), pauses: (ms(50), ms(200)), ..Terms::default() }
}

/// The ports that both kinds of upstream have.
async fn lost_and_found<U>(upstream: U, relay: &Relay)
where
    U: BlobStore + ActionCache + Probe + 'static,
{
    let upstream = Arc::new(upstream);
    let breaker = Breaker::new("far", quick(), Some(upstream.clone()));
    let blobs = GuardedBlobs::new(upstream.clone(), breaker.clone());
    let actions = GuardedActions::new(upstream, breaker.clone());
    let (digest, bytes) = content(100_000);
    let key = digest.into();
    actions.put(&context(), key, ActionResult::default()).await.unwrap();
    blobs.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
    for way in [State::BlackHole, State::Down] {
        relay.change(|link| link.state = way);
        // Whatever fails on the way, no look-up does.
        let deadline = Instant::now() + 20 * SECOND;
        while breaker.standing().open[Call::LookUp as usize].is_none() {
            assert!(Instant::now() < deadline, "{way:?} goes unnoticed");
            let context = context();
            let looks = (0..20).map(|_| actions.get(&context, key));
            for found in futures::future::join_all(looks).await {
                assert!(found.unwrap().is_none(), "{way:?}");
            }
        }
        relay.change(|link| link.state = State::Up);
        let deadline = Instant::now() + 20 * SECOND;
        while actions.get(&context(), key).await.unwrap().is_none() {
            assert!(Instant::now() < deadline, "after {way:?}: {:?}", breaker.standing());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let deadline = Instant::now() + 20 * SECOND;
        loop {
            match blobs.read_all(&context(), digest, 1 << 20).await {
                Ok(whole) => break assert!(whole == bytes),
                Err(error) => assert!(Instant::now() < deadline, "after {way:?}: {error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_upstream_is_lost_and_found() {
    let fake = Fake::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(&listener.local_addr().unwrap().to_string(), Link::default()).unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(fake.router().serve_with_incoming(incoming));
    let options = Options { retry: Retry::NEVER, ..fake::options() };
    let remote = Endpoint::connect(&format!("grpc://{}", relay.address()), options).unwrap();
    lost_and_found(remote, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_upstream_is_lost_and_found() {
    let cache = Cache::default();
    for speaks in [Speaks::Both, Speaks::One] {
        let url = cache.serve(speaks).await;
        let relay = Relay::start(&url.replace("http://localhost", "127.0.0.1"), Link::default()).unwrap();
        let options = HttpOptions { retry: Retry::NEVER, ..HttpOptions::default() };
        let upstream = HttpUpstream::new(format!("http://{}", relay.address()).parse().unwrap(), options);
        lost_and_found(upstream, &relay).await;
    }
}
