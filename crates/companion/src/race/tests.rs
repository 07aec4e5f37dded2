//! Races among executors that end when the test says so; time stands still meanwhile.

use super::*;
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    ActionResult, Context, Digest, DigestFunction, Error, ExecuteRequest, ExecutionMetadata, Executor, Kind,
    Outcome, OutputFile, Progress, RequestMetadata, Result, Stage, SystemClock, Termination,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Ends after a time, and counts.
struct Fake {
    takes: Mutex<Duration>,
    ends: Mutex<Box<dyn Fn() -> Result<Outcome> + Send>>,
    started: AtomicU32,
    dropped: Arc<AtomicU32>,
}

fn fake(takes: Duration, ends: impl Fn() -> Result<Outcome> + Send + 'static) -> Arc<Fake> {
    let (takes, ends) = (Mutex::new(takes), Mutex::new(Box::new(ends) as _));
    Arc::new(Fake { takes, ends, started: AtomicU32::default(), dropped: Arc::default() })
}

/// Counts an execution that was not awaited to its end.
struct Unfinished(Arc<AtomicU32>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[async_trait]
impl Executor for Fake {
    async fn execute(&self, _: &Context, _: ExecuteRequest, progress: &dyn Progress) -> Result<Outcome> {
        self.started.fetch_add(1, Relaxed);
        let unfinished = Unfinished(self.dropped.clone());
        progress.report(Stage::Executing, &ExecutionMetadata::default());
        let takes = *self.takes.lock();
        tokio::time::sleep(takes).await;
        std::mem::forget(unfinished);
        (self.ends.lock())()
    }
}

fn exited(worker: &str, exit_code: i32) -> Result<Outcome> {
    let metadata = ExecutionMetadata { worker: worker.into(), ..ExecutionMetadata::default() };
    let result = ActionResult { exit_code, metadata, ..ActionResult::default() };
    let (message, server_logs) = (String::new(), Vec::new());
    Ok(Outcome { result, cached: false, termination: Termination::Exited, message, server_logs })
}

fn away() -> Error {
    Error::new(Kind::Unavailable { message: "nobody answers".into(), retry_after: None })
}

struct Offer(Option<&'static str>);

#[async_trait]
impl Suits for Offer {
    async fn refused(&self, _: &Context, _: Digest) -> Result<Option<String>> {
        Ok(self.0.map(Into::into))
    }
}

fn local(executor: &Arc<Fake>, slots: u32) -> Local {
    Local::new(executor.clone(), Arc::new(Offer(None)), slots)
}

fn race(remote: &Arc<Fake>, here: Local) -> Race {
    Race::new(remote.clone(), here, Arc::new(Paused))
}

/// The clock of the paused runtime.
struct Paused;

impl mortar_model::Clock for Paused {
    fn now(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> std::time::SystemTime {
        SystemClock.wall()
    }
}

fn request() -> ExecuteRequest {
    let action_digest = Digest::of(DigestFunction::Sha256, b"an action");
    ExecuteRequest { action_digest, skip_cache_lookup: false, priority: 0 }
}

fn context() -> Context {
    let request = RequestMetadata {
        action_mnemonic: "CppCompile".into(),
        target_id: "//a".into(),
        ..RequestMetadata::default()
    };
    Context { request: Arc::new(request), ..Context::default() }
}

async fn worker(executor: &dyn Executor) -> String {
    executor.execute(&context(), request(), &()).await.unwrap().result.metadata.worker
}

#[tokio::test(start_paused = true)]
async fn the_first_success_wins_and_the_other_is_dropped() {
    for (here, there, winner) in [(10, 500, "here"), (500, 10, "there")] {
        let here = fake(ms(here), || exited("here", 0));
        let there = fake(ms(there), || exited("there", 0));
        let race = race(&there, local(&here, 1));
        assert_eq!(worker(&race).await, winner);
        assert_eq!((here.started.load(Relaxed), there.started.load(Relaxed)), (1, 1));
        assert_eq!(here.dropped.load(Relaxed) + there.dropped.load(Relaxed), 1);
        let tally = race.tally();
        assert_eq!(tally.local.load(Relaxed) == 1, winner == "here");
        assert_eq!(tally.remote.load(Relaxed) == 1, winner == "there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_here_waits_for_the_upstream_and_one_there_is_final() {
    let here = fake(ms(10), || exited("here", 1));
    let there = fake(ms(500), || exited("there", 0));
    assert_eq!(worker(&race(&there, local(&here, 1))).await, "there");
    let here = fake(ms(500), || exited("here", 0));
    let there = fake(ms(10), || exited("there", 1));
    assert_eq!(worker(&race(&there, local(&here, 1))).await, "there");
}

#[tokio::test(start_paused = true)]
async fn trouble_at_one_place_leaves_the_other() {
    let broken = || fake(ms(10), || Err(away()));
    let slow = |name: &'static str, code| fake(ms(500), move || exited(name, code));
    assert_eq!(worker(&race(&broken(), local(&slow("here", 0), 1))).await, "here");
    assert_eq!(worker(&race(&slow("there", 0), local(&broken(), 1))).await, "there");
    // A command that failed here is more than the upstream has to say.
    assert_eq!(worker(&race(&broken(), local(&slow("here", 7), 1))).await, "here");
    let fast = fake(ms(1), || exited("here", 7));
    assert_eq!(worker(&race(&broken(), local(&fast, 1))).await, "here");
    let none = race(&broken(), local(&broken(), 1)).execute(&context(), request(), &()).await;
    assert!(none.unwrap_err().to_string().contains("nobody answers"));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_be_slower_is_not_started() {
    let here = fake(ms(500), || exited("here", 0));
    let there = fake(ms(10), || exited("there", 1));
    let race = race(&there, local(&here, 1));
    // Each place is learned from what ended there.
    assert_eq!(worker(&race).await, "there");
    *there.ends.lock() = Box::new(|| Err(away()));
    assert_eq!(worker(&race).await, "here");
    *there.ends.lock() = Box::new(|| exited("there", 0));
    let before = here.started.load(Relaxed);
    assert_eq!(worker(&race).await, "there");
    assert_eq!(here.started.load(Relaxed), before, "it was expected to be slower");
    // When the faster one is late, the other starts after all.
    *there.takes.lock() = ms(60_000);
    assert_eq!(worker(&race).await, "here");
    // When the faster one fails, the other starts at once.
    *there.takes.lock() = ms(1);
    *there.ends.lock() = Box::new(|| Err(away()));
    let began = tokio::time::Instant::now();
    assert_eq!(worker(&race).await, "here");
    assert_eq!(began.elapsed(), ms(501));
}

#[tokio::test(start_paused = true)]
async fn without_a_place_here_the_upstream_has_it_alone() {
    let here = fake(ms(10), || exited("here", 0));
    let there = fake(ms(500), || exited("there", 0));
    let unsuited = Local::new(here.clone(), Arc::new(Offer(Some("no"))), 1);
    let unsuited = race(&there, unsuited);
    assert_eq!(worker(&unsuited).await, "there");
    let full = race(&there, local(&here, 0));
    assert_eq!(worker(&full).await, "there");
    assert_eq!(here.started.load(Relaxed), 0);
    assert_eq!(full.tally().unraced.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_stops_both() {
    let (here, there) = (fake(ms(500), || exited("here", 0)), fake(ms(500), || exited("there", 0)));
    let race = race(&there, local(&here, 1));
    let left = tokio::time::timeout(ms(100), race.execute(&context(), request(), &())).await;
    assert!(left.is_err());
    assert_eq!((here.dropped.load(Relaxed), there.dropped.load(Relaxed)), (1, 1));
    // The slot is free again.
    worker(&race).await;
    assert_eq!(here.started.load(Relaxed), 2);
}

/// What a client hears.
#[derive(Default)]
struct Told(Mutex<Vec<Stage>>);

impl Progress for Told {
    fn report(&self, stage: Stage, _: &ExecutionMetadata) {
        self.0.lock().push(stage);
    }
}

#[tokio::test(start_paused = true)]
async fn two_places_are_heard_as_one() {
    let (here, there) = (fake(ms(500), || exited("here", 0)), fake(ms(10), || exited("there", 0)));
    let told = Told::default();
    race(&there, local(&here, 1)).execute(&context(), request(), &told).await.unwrap();
    assert_eq!(*told.0.lock(), [Stage::Executing]);
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_cannot_take_runs_here_and_nothing_else_does() {
    let here = fake(ms(10), || exited("here", 0));
    let run = |remote: Arc<Fake>, here: Local| async move {
        Fallback::new(remote, here).execute(&context(), request(), &()).await
    };
    let message = || "for a reason".to_owned();
    let reasons: [fn(String) -> Kind; 4] = [
        |message| Kind::Unavailable { message, retry_after: None },
        |message| Kind::Unauthenticated { message },
        |message| Kind::ResourceExhausted { message, retry_after: Some(ms(1)) },
        |message| Kind::FailedPrecondition { message },
    ];
    for reason in reasons {
        let ran =
            run(fake(ms(1), move || Err(Error::new(reason(message())))), local(&here, 1)).await.unwrap();
        assert_eq!(ran.result.metadata.worker, "here");
    }
    let invalid = fake(ms(1), || Err(Error::invalid("action", "bad")));
    assert!(run(invalid, local(&here, 1)).await.is_err());
    assert_eq!(run(fake(ms(1), || exited("there", 1)), local(&here, 1)).await.unwrap().result.exit_code, 1);
    assert_eq!(here.started.load(Relaxed), 4);
    let unsuited = Local::new(here.clone(), Arc::new(Offer(Some("this machine does not offer `a=b`"))), 1);
    let refused = run(fake(ms(1), || Err(away())), unsuited).await.unwrap_err().to_string();
    assert!(
        refused.contains("upstream does not take it") && refused.contains("does not offer `a=b`"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn offline_actions_wait_for_slots() {
    let here = fake(ms(100), || exited("here", 0));
    let all = Fallback::new(fake(ms(0), || Err(away())), local(&here, 2));
    let began = tokio::time::Instant::now();
    let context = context();
    let ran = futures::future::join_all((0..6).map(|_| all.execute(&context, request(), &()))).await;
    assert!(ran.iter().all(Result::is_ok));
    assert_eq!(here.started.load(Relaxed), 6);
    assert_eq!(began.elapsed(), ms(300), "two at a time");
}

fn made(path: &str, content: &'static str) -> Result<Outcome> {
    let mut outcome = exited("somebody", 0)?;
    outcome.result.files.push(OutputFile {
        path: path.into(),
        digest: Digest::of(DigestFunction::Sha256, content.as_bytes()),
        is_executable: false,
        contents: Bytes::new(),
        properties: None,
    });
    Ok(outcome)
}

#[tokio::test(start_paused = true)]
async fn what_is_not_reproducible_is_told_and_the_upstream_believed() {
    let here = fake(ms(10), || made("out/a", "10:01"));
    let there = fake(ms(1), || made("out/a", "10:02"));
    let compare = Compare::new(there.clone(), local(&here, 1));
    let answer = compare.execute(&context(), request(), &()).await.unwrap();
    assert_eq!(answer.result, made("out/a", "10:02").unwrap().result);
    let comparisons = compare.comparisons();
    assert_eq!(comparisons.counts(), (0, 1, 0));
    let [report] = &comparisons.reports()[..] else { panic!("one report") };
    assert_eq!((report.mnemonic.as_str(), report.target.as_str()), ("CppCompile", "//a"));
    let told = report.differences[0].to_string();
    let digest = |text: &str| Digest::of(DigestFunction::Sha256, text.as_bytes());
    let expected = format!("`out/a`: here file `{}`, upstream file `{}`", digest("10:01"), digest("10:02"));
    assert_eq!(told, expected);

    *here.ends.lock() = Box::new(|| made("out/a", "10:02"));
    compare.execute(&context(), request(), &()).await.unwrap();
    assert_eq!(comparisons.counts(), (1, 1, 0));
    *here.ends.lock() = Box::new(|| made("out/b", "10:02"));
    compare.execute(&context(), request(), &()).await.unwrap();
    let differences = comparisons.reports().pop().unwrap().differences;
    assert_eq!(differences.len(), 2, "{differences:?}");
    assert_eq!(differences[1].here, "is not made");
    *here.ends.lock() = Box::new(|| Err(away()));
    compare.execute(&context(), request(), &()).await.unwrap();
    assert_eq!(comparisons.counts(), (1, 2, 1));
}
