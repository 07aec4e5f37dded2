//! A network between worker and server that dies without a word: no end of the connection is told to either side.

use crate::{
    LIMIT, MORTAR, executions,
    task::{Task, client, marker, output, worker},
    wait_for,
};
use mortar_testkit::{
    mortar::{Mortar, Worker, runs_anywhere},
    network::{Link, Relay, State},
    process::wait_until,
};

/// Nothing comes through any more, and connections of before never will again.
fn fall_silent(relay: &Relay) {
    relay.change(|link| link.state = State::BlackHole);
    relay.strand();
}

fn grpc(relay: &Relay) -> String {
    format!("grpc://{}", relay.address())
}

/// The server misses signs of life, and has the work done elsewhere. The worker notices as well, and comes back when
/// there is a way again.
#[tokio::test(flavor = "multi_thread")]
async fn work_is_done_elsewhere_and_the_worker_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let relay = Relay::start(server.address(), Link::default()).unwrap();
    let start = |name: &str, url: &str| {
        Worker::start(MORTAR, url, &directory.path().join(name), &["--name", name, "--slots", "1"]).unwrap()
    };
    let far = start("far", &grpc(&relay));
    let (remote, marker) = (client(&server.grpc()), marker());
    let runs = Task::after_a_nap(&remote, &marker, 1.0, "echo a result > out").await.unwrap().start(&remote);
    far.wait_until_it_runs(&marker, LIMIT).unwrap();
    fall_silent(&relay);
    let over = || Ok((!runs_anywhere(&marker)?).then_some(()));
    wait_until("the end of the command", LIMIT, over).unwrap();
    assert_eq!(executions(&server, "executed"), 0, "its end did not come through");

    let mut near = start("near", &server.grpc());
    let outcome = runs.await.unwrap().unwrap();
    assert_eq!(output(&remote, &outcome).await.unwrap(), "a result\n");
    assert_eq!((worker(&outcome), executions(&server, "retried")), ("near", 1));
    assert!(outcome.message.contains("`far`"), "{}", outcome.message);

    relay.change(|link| link.state = State::Up);
    wait_for(&server, "workers", 2);
    near.kill().unwrap();
    wait_for(&server, "workers", 1);
    let task = Task { script: "echo through a new connection > out".into(), ..Task::default() };
    let outcome = task.run(&remote).await.unwrap();
    assert_eq!(output(&remote, &outcome).await.unwrap(), "through a new connection\n");
    assert_eq!(worker(&outcome), "far");
    assert_eq!((executions(&server, "executed"), executions(&server, "running")), (2, 0));
}

/// A client that is gone without a word is missed too, and what only it waited for ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_left_without_a_word_ends() {
    let directory = tempfile::tempdir().unwrap();
    let server = Mortar::up(MORTAR, &directory.path().join("data")).unwrap();
    let relay = Relay::start(server.address(), Link::default()).unwrap();
    let (remote, marker) = (client(&grpc(&relay)), marker());
    let runs = Task::after_a_nap(&remote, &marker, 100_000.0, "true").await.unwrap().start(&remote);
    server.wait_until_it_runs(&marker, LIMIT).unwrap();
    fall_silent(&relay);
    let over = || Ok((!runs_anywhere(&marker)?).then_some(()));
    wait_until("the end of the command", LIMIT, over).unwrap();
    wait_for(&server, "running", 0);
    runs.abort();
}
