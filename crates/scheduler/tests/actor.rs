//! The scheduler as others use it: tickets on one side, workers on channels on the other, time held by tokio.

#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use mortar_model::{
    ActionResult, Clock, Context, Digest, DigestFunction, ExecuteRequest, ExecutionMetadata, Executor, Kind,
    Outcome, Platform, Progress, Result, Stage, Termination,
    session::{self, ExecutionId, FromWorker, Held, Hello, Run, ToWorker},
};
use mortar_scheduler::{
    ActionRequirements, ActionSource, Config, KnownPool, Need, PoolBook, QueueExecutor, Scheduler, Standing,
    Status, Submission, Ticket, Update, WorkerLink,
};
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

/// Tokio's time, which stands still while anything can be done.
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1)
    }
}

fn start() -> Scheduler {
    Scheduler::start(Config::default(), Arc::new(TokioClock))
}

/// Everything here happens in far less than an hour of the held time.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("it happens")
}

fn hello(name: &str) -> Hello {
    Hello { version: session::VERSION, name: name.to_owned(), slots: 1, ..Hello::default() }
}

fn digest(name: &str) -> Digest {
    Digest::of(DigestFunction::Sha256, name.as_bytes())
}

fn outcome() -> Outcome {
    Outcome {
        result: ActionResult::default(),
        cached: false,
        termination: Termination::Exited,
        message: String::new(),
        server_logs: Vec::new(),
    }
}

fn submission(action_digest: Digest) -> Submission {
    let platform = Platform::default();
    Submission { action_digest, platform, priority: 0, merge: true, need: Need::default() }
}

async fn submit(scheduler: &Scheduler, name: &str) -> Ticket {
    let action_digest = digest(name);
    scheduler.submit(Context::internal(), submission(action_digest)).await.unwrap()
}

async fn done(ticket: &mut Ticket) -> Result<Box<Outcome>> {
    loop {
        if let Update::Done(end) = soon(ticket.next()).await {
            return Ok(end?);
        }
    }
}

/// The next command that is not talk; in the meantime the worker lives.
async fn command(link: &mut WorkerLink) -> Option<ToWorker> {
    loop {
        match soon(link.commands.recv()).await {
            Some(ToWorker::Heartbeat) => drop(link.reports.send(FromWorker::Heartbeat).await),
            Some(ToWorker::Welcome { .. } | ToWorker::Delivered(_)) => {}
            other => return other,
        }
    }
}

async fn run(link: &mut WorkerLink) -> Run {
    match command(link).await {
        Some(ToWorker::Run(run)) => *run,
        other => panic!("expected a run, got {other:?}"),
    }
}

async fn cancelled(link: &mut WorkerLink) -> ExecutionId {
    match command(link).await {
        Some(ToWorker::Cancel(execution)) => execution,
        other => panic!("expected a cancel, got {other:?}"),
    }
}

async fn finish(link: &WorkerLink, execution: ExecutionId) {
    link.reports.send(FromWorker::Finished { execution, outcome: Box::new(Ok(outcome())) }).await.unwrap();
}

async fn until(scheduler: &Scheduler, condition: impl Fn(&Status) -> bool) -> Status {
    soon(async {
        loop {
            let status = scheduler.status().await;
            if condition(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Actions that require what they are told to.
struct Fixed(ActionRequirements);

#[async_trait]
impl ActionSource for Fixed {
    async fn action(&self, _: &Context, _: Digest) -> Result<ActionRequirements> {
        Ok(self.0.clone())
    }
}

#[derive(Default)]
struct Stages(Mutex<Vec<(Stage, String)>>);

impl Progress for Stages {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        assert_eq!(metadata.queued, Some(TokioClock.wall()));
        self.0.lock().unwrap().push((stage, metadata.worker.clone()));
    }
}

fn request(name: &str) -> ExecuteRequest {
    ExecuteRequest { action_digest: digest(name), skip_cache_lookup: false, priority: 0 }
}

#[tokio::test(start_paused = true)]
async fn an_execution_from_end_to_end() {
    let scheduler = start();
    let executor = QueueExecutor::new(scheduler.clone(), Arc::new(Fixed(ActionRequirements::default())));
    let stages = Arc::new(Stages::default());
    let heard = Arc::clone(&stages);
    let client =
        tokio::spawn(async move { executor.execute(&Context::internal(), request("a"), &*heard).await });
    let status = until(&scheduler, |status| status.queued == 1).await;
    assert!(status.workers.is_empty());
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let welcome = soon(link.commands.recv()).await;
    assert!(matches!(welcome, Some(ToWorker::Welcome { version: session::VERSION, .. })), "{welcome:?}");
    let run = run(&mut link).await;
    assert_eq!(run.action_digest, digest("a"));
    finish(&link, run.execution).await;
    let outcome = soon(client).await.unwrap().unwrap();
    assert_eq!(outcome.result.metadata.worker, "w");
    assert_eq!(outcome.result.metadata.queued, Some(TokioClock.wall()));
    let stages = stages.0.lock().unwrap().clone();
    assert_eq!(stages, [(Stage::Queued, String::new()), (Stage::Executing, "w".to_owned())]);
    assert_eq!(scheduler.status().await.counters.executed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_longer_timeout_than_allowed_is_refused() {
    let timeout = Some(Config::default().max_timeout + Duration::from_secs(1));
    let source = Fixed(ActionRequirements { timeout, ..ActionRequirements::default() });
    let executor = QueueExecutor::new(start(), Arc::new(source));
    let error = soon(executor.execute(&Context::internal(), request("a"), &())).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::InvalidArgument { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_cached_is_not_merged() {
    let scheduler = start();
    let source = Fixed(ActionRequirements { do_not_cache: true, ..ActionRequirements::default() });
    let executor = QueueExecutor::new(scheduler.clone(), Arc::new(source));
    for _ in 0..2 {
        let executor = executor.clone();
        tokio::spawn(async move { executor.execute(&Context::internal(), request("a"), &()).await });
    }
    until(&scheduler, |status| status.queued == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_ticket_cancels() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let ticket = submit(&scheduler, "a").await;
    let other = submit(&scheduler, "a").await;
    let run = run(&mut link).await;
    until(&scheduler, |status| status.running[0].waiters == 2).await;
    drop(ticket);
    until(&scheduler, |status| status.running[0].waiters == 1).await;
    drop(other);
    assert_eq!(cancelled(&mut link).await, run.execution);
    let status = scheduler.status().await;
    assert!(status.running[0].cancelled && status.workers[0].busy == 1, "the slot is not yet free");
    finish(&link, run.execution).await;
    until(&scheduler, |status| status.workers[0].busy == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_execution_cancels() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let executor = QueueExecutor::new(scheduler.clone(), Arc::new(Fixed(ActionRequirements::default())));
    let client =
        tokio::spawn(async move { executor.execute(&Context::internal(), request("a"), &()).await.is_ok() });
    let run = run(&mut link).await;
    client.abort();
    assert_eq!(cancelled(&mut link).await, run.execution);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_dropped_at_once_leaves_nothing_behind() {
    let scheduler = start();
    for round in 0..100 {
        drop(submit(&scheduler, &round.to_string()).await);
    }
    let status = until(&scheduler, |status| status.queued == 0).await;
    assert_eq!(status.running, []);
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_is_a_retry_elsewhere() {
    let scheduler = start();
    let mut first = scheduler.attach(hello("first")).await.unwrap();
    let mut ticket = submit(&scheduler, "a").await;
    let lost = run(&mut first).await;
    let mut second = scheduler.attach(hello("second")).await.unwrap();
    drop(first);
    let retried = run(&mut second).await;
    assert_ne!(lost.execution, retried.execution);
    finish(&second, retried.execution).await;
    let outcome = done(&mut ticket).await.unwrap();
    assert_eq!(
        outcome.message,
        "This was attempt 2. Before it, worker `first` was lost: its connection ended."
    );
    assert_eq!(scheduler.status().await.counters.retried, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_is_given_up_and_one_that_beats_is_not() {
    let scheduler = start();
    let mut silent = scheduler.attach(hello("silent")).await.unwrap();
    let mut alive = scheduler.attach(hello("alive")).await.unwrap();
    let living = tokio::spawn(async move { command(&mut alive).await.is_none() });
    let began = tokio::time::Instant::now();
    while soon(silent.commands.recv()).await.is_some() {}
    assert_eq!(began.elapsed().as_secs(), Config::default().silence().as_secs());
    assert!(silent.reports.send(FromWorker::Heartbeat).await.is_err(), "it is told that it is lost");
    tokio::time::sleep(Config::default().silence() * 4).await;
    let names: Vec<_> = scheduler.status().await.workers.into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, ["alive"]);
    living.abort();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_read_is_given_up() {
    let scheduler = start();
    let deaf = scheduler.attach(hello("deaf")).await.unwrap();
    let mut ticket = submit(&scheduler, "first").await;
    // Unread heartbeats fill the channel while its own keep the worker alive.
    for _ in 0..30 {
        tokio::time::sleep(Config::default().heartbeat_interval).await;
        deaf.reports.send(FromWorker::Heartbeat).await.unwrap();
    }
    until(&scheduler, |status| status.workers.len() == 1).await;
    ticket = {
        drop(ticket);
        submit(&scheduler, "second").await
    };
    let status = until(&scheduler, |status| status.workers.is_empty()).await;
    assert_eq!(status.queued, 1, "the work is not lost");
    drop(ticket);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_late_still_gets_the_end() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let mut ticket = submit(&scheduler, "a").await;
    let run = run(&mut link).await;
    for _ in 0..100 {
        let report =
            FromWorker::Progress { execution: run.execution.clone(), metadata: ExecutionMetadata::default() };
        link.reports.send(report).await.unwrap();
    }
    finish(&link, run.execution).await;
    until(&scheduler, |status| status.counters.executed == 1).await;
    assert!(done(&mut ticket).await.is_ok());
    assert!(matches!(soon(ticket.next()).await, Update::Done(Err(_))), "after the end there is nothing");
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_another_version_or_without_slots_is_refused() {
    let scheduler = start();
    let newer = Hello { version: session::VERSION + 1, ..hello("new") };
    let error = scheduler.attach(newer).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "worker `new` speaks version {} of the session protocol; this server speaks versions {} to {}\n\
             Hint: run the same release of mortar on the worker and on the server",
            session::VERSION + 1,
            session::OLDEST_VERSION,
            session::VERSION
        )
    );
    let error = scheduler.attach(Hello { slots: 0, ..hello("idle") }).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::InvalidArgument { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_what_runs() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let mut running = submit(&scheduler, "a").await;
    let run = run(&mut link).await;
    let mut queued = submit(&scheduler, "b").await;
    let closer = scheduler.clone();
    let closing = tokio::spawn(async move { closer.shutdown(Duration::from_secs(10)).await });
    let refused = done(&mut queued).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::Unavailable { retry_after: Some(_), .. }), "{refused}");
    assert!(!closing.is_finished());
    finish(&link, run.execution).await;
    assert!(done(&mut running).await.is_ok());
    soon(closing).await.unwrap();
    assert!(command(&mut link).await.is_none());
    assert!(scheduler.submit(Context::internal(), submission(digest("c"))).await.is_err());
    assert!(scheduler.attach(hello("late")).await.is_err());
    assert!(scheduler.status().await.closing);
}

#[tokio::test(start_paused = true)]
async fn shutdown_cancels_what_runs_too_long() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let mut ticket = submit(&scheduler, "a").await;
    let run = run(&mut link).await;
    soon(scheduler.shutdown(Duration::from_secs(1))).await;
    assert!(done(&mut ticket).await.is_err());
    assert_eq!(cancelled(&mut link).await, run.execution);
    assert!(command(&mut link).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_handles_it_ends() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    let mut ticket = submit(&scheduler, "a").await;
    drop(scheduler);
    assert!(done(&mut ticket).await.is_err());
    while soon(link.commands.recv()).await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn workers_are_paused_resumed_and_drained_by_name() {
    let scheduler = start();
    let mut link = scheduler.attach(hello("w")).await.unwrap();
    for unknown in [scheduler.pause("x").await, scheduler.drain("x").await] {
        assert_eq!(unknown.unwrap_err().to_string(), "worker `x` was not found");
    }
    scheduler.pause("w").await.unwrap();
    let mut ticket = submit(&scheduler, "a").await;
    let status = until(&scheduler, |status| status.queued == 1).await;
    assert_eq!(status.workers[0].standing, Standing::Paused);
    assert_eq!(&*status.waiting[0].reason, "every worker that could run it is paused, such as `w`");
    scheduler.resume_worker("w").await.unwrap();
    let execution = run(&mut link).await.execution;
    scheduler.drain("w").await.unwrap();
    assert!(matches!(command(&mut link).await, Some(ToWorker::Drain)));
    finish(&link, execution).await;
    assert!(done(&mut ticket).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_delivers() {
    let scheduler = start();
    let hello = |held| Hello { process: "p".into(), held, ..hello("w") };
    let mut first = scheduler.attach(hello(Vec::new())).await.unwrap();
    let mut ticket = submit(&scheduler, "a").await;
    let run = run(&mut first).await;
    drop(first);
    until(&scheduler, |status| status.workers[0].standing == Standing::Away).await;
    let held =
        Held { execution: run.execution.clone(), context: run.context, action_digest: run.action_digest };
    let mut second = scheduler.attach(hello(vec![held])).await.unwrap();
    finish(&second, run.execution.clone()).await;
    let outcome = done(&mut ticket).await.unwrap();
    assert_eq!(outcome.message, "", "it was one attempt");
    loop {
        match soon(second.commands.recv()).await.unwrap() {
            ToWorker::Delivered(execution) => break assert_eq!(execution, run.execution),
            ToWorker::Run(run) => panic!("{run:?}"),
            _ => {}
        }
    }
}

/// Remembers what it is told to.
#[derive(Default)]
struct Book(Mutex<Vec<KnownPool>>);

impl PoolBook for Book {
    fn read(&self) -> Vec<KnownPool> {
        self.0.lock().unwrap().clone()
    }

    fn keep(&self, pools: &[KnownPool]) {
        *self.0.lock().unwrap() = pools.to_vec();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_known_after_a_restart() {
    let book = Arc::new(Book::default());
    let begin = || Scheduler::resume(Config::default(), Arc::new(TokioClock), book.clone());
    let late = || tokio::time::sleep(Config::default().start_grace);
    let scheduler = begin();
    late().await;
    let mut refused = submit(&scheduler, "a").await;
    assert!(matches!(done(&mut refused).await.unwrap_err().kind(), Kind::FailedPrecondition { .. }));
    scheduler.attach(hello("w")).await.unwrap();
    until(&scheduler, |status| status.workers.is_empty()).await;
    let scheduler = begin();
    late().await;
    let _waits = submit(&scheduler, "a").await;
    until(&scheduler, |status| status.queued == 1).await;
}
