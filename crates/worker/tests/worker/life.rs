//! How executions end: codes, limits, cancels; what is recorded of them.

use crate::{Job, Lab, config, run};
use mortar_model::{
    Context, ExecuteRequest, ExecutionMetadata, Executor, Kind, Progress, Stage, Termination,
};
use mortar_sandbox::Isolation;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn only_successes_that_may_be_cached_are_recorded() {
    let lab = Lab::memory().await;
    let success = Job::new("echo hi > out").paths(&["out"]);
    let action = lab.action(&success).await;
    let result = lab.ok(&success).await;
    assert_eq!(lab.cached(action).await, Some(result));

    let uncached = Job { do_not_cache: true, ..success.clone() };
    lab.ok(&uncached).await;
    assert_eq!(lab.cached(lab.action(&uncached).await).await, None);

    let failure = Job::new("echo why >&2; echo part > out; exit 42").paths(&["out"]);
    let outcome = lab.run(&failure).await.unwrap();
    assert_eq!((outcome.result.exit_code, &outcome.termination), (42, &Termination::Exited));
    assert_eq!(lab.text(outcome.result.stderr_digest).await, "why\n");
    assert_eq!(outcome.result.files.len(), 1);
    assert_eq!(lab.cached(lab.action(&failure).await).await, None);

    let outcome = lab.run(&Job::new("kill -9 $$")).await.unwrap();
    assert_eq!(outcome.result.exit_code, 137);
    assert!(outcome.message.contains("signal 9"));
}

#[tokio::test]
async fn the_time_limit_keeps_logs_and_is_not_cached() {
    let lab = Lab::memory().await;
    let limit = Duration::from_millis(300);
    let job =
        Job { timeout: Some(limit), ..Job::new("echo before; echo part > out; sleep 100").paths(&["out"]) };
    let outcome = lab.run(&job).await.unwrap();
    assert_eq!(outcome.termination, Termination::TimedOut { limit });
    assert_eq!(lab.text(outcome.result.stdout_digest).await, "before\n");
    assert!(outcome.message.contains("0.3 s"), "{}", outcome.message);
    assert_eq!(lab.cached(lab.action(&job).await).await, None);

    let action = lab.action(&Job::new("sleep 100")).await;
    let run = mortar_model::session::Run { default_timeout: limit, ..run(action) };
    let outcome = lab.worker.run(run, Arc::new(()), CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.termination, Termination::TimedOut { limit });
}

#[derive(Default)]
struct Heard(Mutex<Vec<ExecutionMetadata>>, tokio::sync::Notify);

impl Progress for Heard {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        assert_eq!(stage, Stage::Executing);
        self.0.lock().unwrap().push(metadata.clone());
        self.1.notify_one();
    }
}

#[tokio::test]
async fn every_step_is_reported_and_every_time_filled_in() {
    let lab = Lab::memory().await;
    let action = lab.action(&Job::new("true")).await;
    let heard = Arc::new(Heard::default());
    let outcome = lab.worker.run(run(action), heard.clone(), CancellationToken::new()).await.unwrap();
    let metadata = outcome.result.metadata;
    assert_eq!(metadata.worker, "tester");
    let times = [
        metadata.queued,
        metadata.worker_start,
        metadata.input_fetch_start,
        metadata.input_fetch_completed,
        metadata.execution_start,
        metadata.execution_completed,
        metadata.output_upload_start,
        metadata.output_upload_completed,
        metadata.worker_completed,
    ];
    let times: Vec<_> = times.into_iter().map(Option::unwrap).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(metadata.virtual_execution_duration.unwrap() > Duration::ZERO);
    assert_eq!(heard.0.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_cancel_stops_the_command_and_leaves_nothing() {
    let lab = Lab::memory().await;
    let action = lab.action(&Job::new("sleep 41799")).await;
    let (heard, cancelled) = (Arc::new(Heard::default()), CancellationToken::new());
    let (worker, progress, token) = (lab.worker.clone(), heard.clone(), cancelled.clone());
    let task = tokio::spawn(async move { worker.run(run(action), progress, token).await });
    until(|| lives("sleep 41799")).await;
    let asked = Instant::now();
    cancelled.cancel();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), Kind::Cancelled { .. }), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(!lives("sleep 41799") && lab.leftovers().is_empty());
}

#[tokio::test]
async fn dropping_an_execution_stops_it() {
    let lab = Lab::memory().await;
    let request = |action_digest| ExecuteRequest { action_digest, skip_cache_lookup: false, priority: 0 };
    let action = lab.action(&Job::new("sleep 42799")).await;
    let worker = lab.worker.clone();
    let task = tokio::spawn(async move { worker.execute(&Context::internal(), request(action), &()).await });
    until(|| lives("sleep 42799")).await;
    let dropped = Instant::now();
    task.abort();
    until(|| !lives("sleep 42799")).await;
    eprintln!("the command was gone {:?} after its execution was dropped", dropped.elapsed());
    until(|| lab.leftovers().is_empty()).await;

    let heard = Heard::default();
    let action = lab.action(&Job::new("true")).await;
    let outcome = lab.worker.execute(&Context::internal(), request(action), &heard).await.unwrap();
    assert_eq!((outcome.result.exit_code, heard.0.lock().unwrap().len()), (0, 4));
}

#[tokio::test]
async fn without_a_sandbox_inputs_are_copies() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.sandbox.isolation = Isolation::None;
    let store = mortar_store::DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
    let disk = mortar_store::DiskStore::open(store).unwrap();
    let lab = Lab::with(directory, config, disk.clone(), Some(disk)).await;
    let job = Job::new("stat -c %h in; echo x >> in; cp in out/x").file("in", "content").paths(&["out/x"]);
    assert_eq!(lab.stdout(&job).await, "1\n");
    assert_eq!(lab.get(mortar_model::Digest::of(crate::FUNCTION, b"content")).await, "content");
}

/// Whether a process with this mark in its command line lives anywhere.
pub fn lives(mark: &str) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(mark))
}

/// Waits for a condition, at most some seconds.
pub async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come to pass");
        tokio::task::yield_now().await;
    }
}
