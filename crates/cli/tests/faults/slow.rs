//! Workers that have no time: frozen for a moment, and frozen for longer than a server puts up with.

use crate::{
    LIMIT, MORTAR, executions,
    task::{Task, client, marker, output, worker},
    wait_for,
};
use mortar_testkit::{
    mortar::{Mortar, Worker, runs_anywhere},
    process::wait_until,
};

/// The command ends while the worker cannot see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_slow_keeps_its_work() {
    let directory = tempfile::tempdir().unwrap();
    let server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let slow = Worker::start(MORTAR, &server.grpc(), &directory.path().join("slow"), &[]).unwrap();
    let (remote, marker) = (client(&server.grpc()), marker());
    let runs = Task::after_a_nap(&remote, &marker, 1.0, "echo done > out").await.unwrap().start(&remote);
    slow.wait_until_it_runs(&marker, LIMIT).unwrap();
    slow.freeze().unwrap();
    let over = || Ok((!runs_anywhere(&marker)?).then_some(()));
    wait_until("the end of the command", LIMIT, over).unwrap();
    slow.thaw().unwrap();
    let outcome = runs.await.unwrap().unwrap();
    assert_eq!(output(&remote, &outcome).await.unwrap(), "done\n");
    assert_eq!((executions(&server, "executed"), executions(&server, "retried")), (1, 0));
}

/// What it has in hand is done elsewhere; when it has time again, it serves as before, and what it did meanwhile changes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_silent_for_too_long_loses_its_work() {
    let directory = tempfile::tempdir().unwrap();
    let server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let slow = Worker::start(
        MORTAR,
        &server.grpc(),
        &directory.path().join("slow"),
        &["--name", "slow", "--slots", "1"],
    )
    .unwrap();
    let (remote, marker) = (client(&server.grpc()), marker());
    let script = "echo a result > out";
    let runs = Task::after_a_nap(&remote, &marker, 1.0, script).await.unwrap().start(&remote);
    slow.wait_until_it_runs(&marker, LIMIT).unwrap();
    slow.freeze().unwrap();
    let _quick = Worker::start(
        MORTAR,
        &server.grpc(),
        &directory.path().join("quick"),
        &["--name", "quick", "--slots", "1"],
    )
    .unwrap();
    let outcome = runs.await.unwrap().unwrap();
    assert_eq!(output(&remote, &outcome).await.unwrap(), "a result\n");
    assert_eq!((worker(&outcome), executions(&server, "retried")), ("quick", 1));
    assert!(outcome.message.contains("`slow`"), "{}", outcome.message);
    assert_eq!(executions(&server, "workers"), 1);

    slow.thaw().unwrap();
    wait_for(&server, "workers", 2);
    // Both are busy at once: the one that was away as well.
    let naps = [super::task::marker(), super::task::marker()];
    let mut asked = Vec::new();
    for nap in &naps {
        let task = Task::after_a_nap(&remote, nap, 3.0, &format!("echo {nap} > out")).await.unwrap();
        asked.push(task.start(&remote));
    }
    let mut workers = Vec::new();
    for (nap, asked) in naps.iter().zip(asked) {
        let outcome = asked.await.unwrap().unwrap();
        assert_eq!(output(&remote, &outcome).await.unwrap(), format!("{nap}\n"));
        workers.push(worker(&outcome).to_owned());
    }
    workers.sort();
    assert_eq!(workers, ["quick", "slow"], "{}", slow.log().unwrap());
    assert_eq!((executions(&server, "retried"), executions(&server, "running")), (1, 0));
}
