//! Executions at the same time, and clients that go.

use crate::{Ended, House, job::Job, until};
use mortar_wire::longrunning::Operation;
use tonic::Streaming;

async fn start(house: &House, job: &Job) -> Streaming<Operation> {
    let action = job.upload(house).await;
    house.start(job, action).await.unwrap()
}

/// Standard output of two executions that were asked for before there was a worker.
async fn twice(house: &House, jobs: [&Job; 2]) -> [bytes::Bytes; 2] {
    let [first, second] = [start(house, jobs[0]).await, start(house, jobs[1]).await];
    house.hire().await;
    let (first, second) = tokio::join!(Ended::of(Ok(first)), Ended::of(Ok(second)));
    [first, second].map(|ended| ended.response.result.expect("a result").stdout_raw)
}

#[tokio::test]
async fn identical_actions_are_run_once() {
    let house = House::without_worker().await;
    let job = Job::unique();
    let skipping = Job { skip_cache_lookup: true, ..job.clone() };
    let [first, second] = twice(&house, [&job, &skipping]).await;
    assert!(!first.is_empty() && first == second);
    let counters = house.scheduler.status().await.counters;
    assert_eq!((counters.executed, counters.merged), (1, 1));
}

#[tokio::test]
async fn what_must_not_be_cached_is_never_merged() {
    let house = House::without_worker().await;
    let job = Job { do_not_cache: true, ..Job::unique() };
    let [first, second] = twice(&house, [&job, &job]).await;
    assert_ne!(first, second);
    let counters = house.scheduler.status().await.counters;
    assert_eq!((counters.executed, counters.merged), (2, 0));
}

#[tokio::test]
async fn other_instances_are_not_merged() {
    let house = House::without_worker().await;
    let job = Job::unique();
    let other = Job { instance: "other".into(), ..job.clone() };
    let [first, second] = twice(&house, [&job, &other]).await;
    assert_ne!(first, second);
}

/// Whether a process with this mark in its command line lives anywhere.
fn lives(mark: &str) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(mark))
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_stopped() {
    let house = House::new().await;
    let mark = "sleep 47811";
    let job = Job::new(mark);
    let (first, second) = (start(&house, &job).await, start(&house, &job).await);
    until("the command runs", async || lives(mark)).await;
    drop(first);
    // The other one still waits: only what both have left is stopped.
    let waiters =
        async || house.scheduler.status().await.running.iter().map(|run| run.waiters).sum::<usize>();
    until("one has left", async || waiters().await == 1).await;
    assert!(lives(mark));
    drop(second);
    until("the command is stopped", async || !lives(mark)).await;
    until("its slot is free", async || house.scheduler.status().await.running.is_empty()).await;
    assert_eq!(house.scheduler.status().await.counters.cancelled, 1);
    house.ok(&Job::unique()).await;
}

#[tokio::test]
async fn what_is_queued_is_forgotten_when_its_client_goes() {
    let house = House::without_worker().await;
    let mark = "sleep 48811";
    let stream = start(&house, &Job::new(mark)).await;
    assert_eq!(house.scheduler.status().await.queued, 1);
    drop(stream);
    until("the queue is empty", async || house.scheduler.status().await.queued == 0).await;
    house.hire().await;
    house.ok(&Job::unique()).await;
    assert_eq!(house.scheduler.status().await.counters.executed, 1);
    assert!(!lives(mark));
}
