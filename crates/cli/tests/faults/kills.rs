//! Builds that go on while workers, the server, or all of them are killed at random, again and again: each ends, and each
//! output has the content that it should.

use crate::{
    LIMIT, MORTAR, executions, figures,
    task::{Begun, Task, client, output},
    wait_for,
};
use futures::future::try_join_all;
use mortar_model::{Context, RequestMetadata};
use mortar_remote::Remote;
use mortar_testkit::{
    cluster::{Cluster, Tally},
    mortar::runs_anywhere,
    process::wait_until,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// As many as a build has time for; more on demand.
const ROUNDS: usize = 12;
const MORE_ROUNDS: &str = "MORTAR_KILL_ROUNDS";
/// Builds at a time, and actions of one at a time.
const BUILDS: usize = 2;
const WIDTH: usize = 4;
/// How many actions begin between two kills, at least and at most. An action is given up when it has lost three workers,
/// as it should be: so many begin that this one has ended by then.
const CALM: (usize, usize) = (4, 16);

#[tokio::test(flavor = "multi_thread")]
async fn every_build_ends_right() {
    let rounds =
        std::env::var(MORE_ROUNDS).map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(MORTAR, directory.path(), 2).unwrap();
    let remote = client(&cluster.server().grpc());
    let stream = Arc::new(Stream { remote, ..Stream::new() });
    let builders: Vec<_> = (0..BUILDS).map(|_| tokio::spawn(build_until_over(stream.clone()))).collect();
    let striking = stream.clone();
    let cluster = tokio::task::spawn_blocking(move || strike(cluster, rounds, &striking));
    let cluster = cluster.await.unwrap();
    let mut builds = 0;
    for builder in builders {
        builds += builder.await.unwrap();
    }
    let Tally { worker, server, all } = cluster.tally();
    println!(
        "{rounds} kills (a worker {worker}, the server {server}, all {all}): {builds} builds ended right, {} actions began",
        stream.begun.count()
    );
    assert_eq!(cluster.tally().sum(), rounds);
    // Nothing is left over that nobody waits for.
    wait_for(cluster.server(), "running", 0);
    assert_eq!(executions(cluster.server(), "queued"), 0, "{}", figures(cluster.server()));
    let gone = || Ok((!runs_anywhere(&stream.name)?).then_some(()));
    wait_until("the end of all commands", LIMIT, gone).unwrap();
}

fn strike(mut cluster: Cluster, rounds: usize, stream: &Stream) -> Cluster {
    for round in 0..rounds {
        let calm = CALM.0 + cluster.chosen(CALM.1 - CALM.0);
        let goal = stream.begun.count() + calm;
        let begun = || {
            let begun = stream.begun.count();
            Ok((begun >= goal || stream.failed.load(Ordering::SeqCst)).then_some(()))
        };
        let waited = wait_until("actions that begin", LIMIT, begun);
        if waited.is_err() || stream.failed.load(Ordering::SeqCst) {
            stream.over.store(true, Ordering::SeqCst);
            panic!("round {round}, {:?}: {waited:?}\n{}", cluster.tally(), cluster.logs());
        }
        cluster.strike().unwrap();
    }
    stream.over.store(true, Ordering::SeqCst);
    cluster
}

/// What all builds have in common.
struct Stream {
    remote: Remote,
    /// Of this run of the test: what other runs made is not known to it.
    name: String,
    numbers: AtomicU64,
    begun: Begun,
    over: AtomicBool,
    failed: AtomicBool,
}

impl Stream {
    fn new() -> Self {
        Self {
            remote: client("grpc://127.0.0.1:1"),
            name: super::task::marker(),
            numbers: AtomicU64::default(),
            begun: Begun::default(),
            over: AtomicBool::default(),
            failed: AtomicBool::default(),
        }
    }
}

/// Builds until there is an end of it; how often.
async fn build_until_over(stream: Arc<Stream>) -> u64 {
    let mut builds = 0;
    while !stream.over.load(Ordering::SeqCst) {
        let build = stream.numbers.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = build_once(&stream, build).await {
            stream.failed.store(true, Ordering::SeqCst);
            panic!("build {build}: {error}");
        }
        builds += 1;
    }
    builds
}

/// Actions of which each makes something, and others that put two such things together.
async fn build_once(stream: &Stream, build: u64) -> mortar_model::Result<()> {
    let request =
        RequestMetadata { tool_invocation_id: format!("{}-{build}", stream.name), ..Default::default() };
    let context = Context { request: Arc::new(request), ..Context::internal() };
    let make = |task: Task, expected: String| {
        let context = context.clone();
        async move {
            let outcome = task.run_for(&context, &stream.remote, &stream.begun.next()).await?;
            let made = output(&stream.remote, &outcome).await?;
            assert!(
                made == expected,
                "build {build}: `{}` made {} bytes: {outcome:?}",
                task.script,
                made.len()
            );
            let file = outcome.result.files.iter().find(|file| file.path == "out").unwrap();
            Ok::<_, mortar_model::Error>((file.digest, expected))
        }
    };
    let parts = (0..WIDTH).map(|part| {
        let (name, lines) = (format!("{} {build} {part}", stream.name), lines(build, part));
        let script = format!("sleep 0.0{part}; seq -f '{name} %g' {lines} > out");
        let expected = (1..=lines).map(|line| format!("{name} {line}\n")).collect();
        make(Task { script, ..Task::default() }, expected)
    });
    let parts = try_join_all(parts).await?;
    let pairs = (0..WIDTH).map(|first| {
        let ((one, text), (other, text_of_other)) = (&parts[first], &parts[(first + 1) % WIDTH]);
        let inputs = vec![("one".to_owned(), *one), ("other".to_owned(), *other)];
        let expected = format!("{text}{text_of_other}");
        make(Task { script: "cat one other > out".into(), inputs, ..Task::default() }, expected)
    });
    try_join_all(pairs).await.map(drop)
}

/// Mostly little; at times more than what is kept in segments.
fn lines(build: u64, part: usize) -> usize {
    match (build as usize + part) % 9 {
        0 => 0,
        8 => 12_000,
        n => n * 40,
    }
}
