//! Figures of the scheduler with 100,000 actions in the queue: memory per action, and how long a worker waits for its
//! next action, compared with an empty queue in the same run.
//!
//! `cargo run --release -p mortar-scheduler --example figures`
#![allow(clippy::unwrap_used)]

use mortar_model::{
    ActionResult, Clock, Context, Digest, DigestFunction, Outcome, Platform, RequestMetadata, SystemClock,
    Termination,
    context::Operation,
    session::{FromWorker, Hello, ToWorker, VERSION},
};
use mortar_scheduler::{Config, Need, Scheduler, Submission, Ticket, Update, WorkerLink};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const QUEUED: usize = 100_000;
/// Actions that are measured, one after the other.
const MEASURED: usize = 5_000;
/// Invocations that share the queue, and different demands among their actions.
const INVOCATIONS: usize = 20;
const DEMANDS: usize = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let config = Config { max_queued: 2 * QUEUED, ..Config::default() };
    let scheduler = Scheduler::start(config, Arc::new(SystemClock) as Arc<dyn Clock>);
    let hello = Hello { version: VERSION, name: "w".into(), slots: 1, platform: offer(), ..Hello::default() };
    let mut link = scheduler.attach(hello).await.unwrap();
    // The worker is busy, so that all that follows waits.
    let mut blocker = submit(&scheduler, usize::MAX, i32::MIN).await;
    let blocking = next(&mut link).await;

    let empty = rounds(&scheduler, &mut link, blocking, &mut blocker).await;
    let (mut blocker, blocking) = (empty.1, empty.2);
    let empty = empty.0;

    let before = resident();
    let began = Instant::now();
    let mut tickets = Vec::with_capacity(QUEUED);
    for number in 0..QUEUED {
        tickets.push(submit(&scheduler, number, 0).await);
    }
    while scheduler.status().await.queued < QUEUED {
        tokio::task::yield_now().await;
    }
    let took = began.elapsed();
    // As the clients of a server, each has read that it waits.
    for ticket in &mut tickets {
        assert!(matches!(ticket.next().await, Update::Progress(..)));
    }
    let each = (resident() - before) / QUEUED;
    let full = rounds(&scheduler, &mut link, blocking, &mut blocker).await;
    let full = full.0;

    println!("resident memory per queued action: {each} bytes, the client's metadata and ticket included");
    println!("queued {QUEUED} actions in {took:.2?}");
    for (name, times) in [("empty queue", &empty), ("100,000 queued", &full)] {
        println!(
            "from the end of an action to the next one on the worker, {name}: median {:.1?}, 99th of 100 {:.1?}",
            times[times.len() / 2],
            times[times.len() / 100 * 99]
        );
    }
    println!(
        "ratio of the medians: {:.2}",
        full[full.len() / 2].as_secs_f64() / empty[empty.len() / 2].as_secs_f64()
    );
    assert!(each < 2048, "an action costs {each} bytes");
}

/// The memory of this process, in bytes, with all that its allocator keeps.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// Ends what runs while one urgent action waits, again and again; how long the worker waited for that, sorted.
async fn rounds(
    scheduler: &Scheduler,
    link: &mut WorkerLink,
    mut running: ToWorker,
    blocker: &mut Ticket,
) -> (Vec<Duration>, Ticket, ToWorker) {
    let mut times = Vec::with_capacity(MEASURED);
    let mut last = None;
    for number in 0..MEASURED {
        let mut ticket = submit(scheduler, QUEUED + number, -1).await;
        assert!(matches!(ticket.next().await, Update::Progress(..)));
        let began = Instant::now();
        finish(link, running).await;
        running = next(link).await;
        times.push(began.elapsed());
        match last.replace(ticket) {
            Some(mut ended) => done(&mut ended).await,
            None => done(blocker).await,
        }
    }
    times.sort_unstable();
    (times, last.unwrap(), running)
}

async fn done(ticket: &mut Ticket) {
    while !matches!(ticket.next().await, Update::Done(_)) {}
}

async fn next(link: &mut WorkerLink) -> ToWorker {
    loop {
        match link.commands.recv().await.unwrap() {
            run @ ToWorker::Run(_) => return run,
            ToWorker::Heartbeat => link.reports.send(FromWorker::Heartbeat).await.unwrap(),
            _ => {}
        }
    }
}

async fn finish(link: &WorkerLink, running: ToWorker) {
    let ToWorker::Run(run) = running else { return };
    let outcome = Outcome {
        result: ActionResult::default(),
        cached: false,
        termination: Termination::Exited,
        message: String::new(),
        server_logs: Vec::new(),
    };
    let outcome = Box::new(Ok(outcome));
    link.reports.send(FromWorker::Finished { execution: run.execution, outcome }).await.unwrap();
}

fn offer() -> Platform {
    let pools = (0..DEMANDS).map(|pool| ("pool".to_owned(), pool.to_string()));
    Platform::new([("OSFamily".to_owned(), "Linux".to_owned())].into_iter().chain(pools))
}

/// As Bazel sends them: each action with metadata of its own.
async fn submit(scheduler: &Scheduler, number: usize, priority: i32) -> Ticket {
    let action_digest = Digest::of(DigestFunction::Sha256, &number.to_le_bytes());
    let request = RequestMetadata {
        tool_name: "bazel".into(),
        tool_version: "release 7.4.1".into(),
        action_id: action_digest.to_string(),
        tool_invocation_id: format!("8ec5bb5f-6ed3-4b8c-9f4b-{:012}", number % INVOCATIONS),
        correlated_invocations_id: "0a4ce4c1-4a29-4a53-b67a-2f4b0f3c1a52".into(),
        action_mnemonic: "CppCompile".into(),
        target_id: format!("//some/package/of/middling/depth:target_{number}"),
        configuration_id: "6e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
    };
    let operation = Operation { name: format!("operations/{number:036}"), ..Operation::default() };
    let context =
        Context { request: Arc::new(request), operation: Some(Arc::new(operation)), ..Context::default() };
    let pool = ("pool".to_owned(), (number % DEMANDS).to_string());
    let platform = Platform::new([("OSFamily".to_owned(), "Linux".to_owned()), pool]);
    let submission = Submission { action_digest, platform, priority, merge: true, need: Need::default() };
    scheduler.submit(context, submission).await.unwrap()
}
