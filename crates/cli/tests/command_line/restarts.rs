//! Servers and workers that are killed while actions run and wait: clients that come back get what they asked for, and
//! what went on meanwhile is not done again.

use crate::{
    LIMIT, MORTAR,
    action::{Nap, execute, marker, put_all, upload_nap},
};
use mortar_model::{Context, Digest, DigestFunction, Executor, InputsFollow, Outcome};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_testkit::{
    http,
    mortar::{Mortar, Worker, runs_anywhere},
    process::wait_until,
};
use std::{path::Path, time::Duration};
use tokio::task::JoinHandle;

/// A client that does not give up while servers are away.
fn client(url: &str) -> Remote {
    let retry = Retry { attempts: 60, longest_wait: Duration::from_millis(500), ..Retry::default() };
    Endpoint::connect(url, Options { retry, ..Options::default() }).unwrap()
}

type Asked = JoinHandle<mortar_model::Result<Outcome>>;

async fn ask(remote: &Remote, marker: &str, seconds: u32) -> Asked {
    let nap = upload_nap(remote, marker, seconds).await;
    let remote = remote.clone();
    tokio::spawn(async move { execute(&remote, nap).await })
}

async fn assert_rested(asked: Asked) {
    let result = asked.await.unwrap().unwrap().result;
    let rested = Digest::of(DigestFunction::Sha256, b"rested\n");
    assert_eq!((result.exit_code, result.stdout_digest), (0, Some(rested)));
}

/// A figure of what the server did since its start.
fn executions(server: &Mortar, figure: &str) -> u64 {
    let page = http::get(server.address(), "/status.json").unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
    figures["executions"][figure].as_u64().unwrap()
}

fn wait_for(server: &Mortar, figure: &str, expected: u64) {
    let reached = || Ok((executions(server, figure) == expected).then_some(()));
    wait_until(&format!("{expected} {figure}"), LIMIT, reached).unwrap();
}

/// The end of an entry which says that a worker has an operation: field 3, empty.
const STARTED: &[u8] = &[3 << 3 | 2, 0];

/// How many operations are written down.
fn begun(journal: &[u8]) -> usize {
    let name = b"operations/";
    journal.windows(name.len()).filter(|window| window == name).count()
}

/// Waits until the server has written down what it was told a moment ago.
fn wait_until_written(directory: &Path, written: impl Fn(&[u8]) -> bool) {
    let journal = directory.join("server/queue/operations");
    let read = || Ok(written(&std::fs::read(&journal)?).then_some(()));
    wait_until("the entries of the journal", LIMIT, read).unwrap();
}

/// The action must not be shared, so that a second one would be seen.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_and_waits_outlives_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let worker =
        Worker::start(MORTAR, &server.grpc(), &directory.path().join("work"), &["--slots", "1"]).unwrap();
    let remote = client(&server.grpc());
    let (first, second) = (marker(), marker());
    let runs = ask(&remote, &first, 8).await;
    worker.wait_until_it_runs(&first, LIMIT).unwrap();
    let waits = ask(&remote, &second, 0).await;
    wait_for(&server, "queued", 1);
    wait_until_written(directory.path(), |journal| begun(journal) == 2);
    server.kill().unwrap();
    assert!(runs_anywhere(&first).unwrap(), "it goes on");
    server.restart().unwrap();
    assert_rested(runs).await;
    assert_rested(waits).await;
    assert_eq!((executions(&server, "executed"), executions(&server, "retried")), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_the_server_is_away_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let worker = Worker::start(MORTAR, &server.grpc(), &directory.path().join("work"), &[]).unwrap();
    let (remote, marker) = (client(&server.grpc()), marker());
    let runs = ask(&remote, &marker, 2).await;
    worker.wait_until_it_runs(&marker, LIMIT).unwrap();
    wait_until_written(directory.path(), |journal| journal.ends_with(STARTED));
    server.kill().unwrap();
    let over = || Ok((!runs_anywhere(&marker)?).then_some(()));
    wait_until("the end of the command", LIMIT, over).unwrap();
    server.restart().unwrap();
    assert_rested(runs).await;
    assert_eq!((executions(&server, "executed"), executions(&server, "retried")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_are_killed_it_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let mut worker = Worker::start(MORTAR, &server.grpc(), &directory.path().join("work"), &[]).unwrap();
    let (remote, marker) = (client(&server.grpc()), marker());
    let runs = ask(&remote, &marker, 3).await;
    worker.wait_until_it_runs(&marker, LIMIT).unwrap();
    server.kill().unwrap();
    worker.kill().unwrap();
    server.restart().unwrap();
    let _other = Worker::start(MORTAR, &server.grpc(), &directory.path().join("other"), &[]).unwrap();
    assert_rested(runs).await;
    assert_eq!(executions(&server, "executed"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_leaves_nothing_running() {
    let directory = tempfile::tempdir().unwrap();
    let mortar = Mortar::up(MORTAR, &directory.path().join("data")).unwrap();
    let (remote, marker) = (client(&mortar.grpc()), marker());
    let runs = ask(&remote, &marker, 100_000).await;
    mortar.wait_until_it_runs(&marker, LIMIT).unwrap();
    runs.abort();
    let gone = || Ok((!runs_anywhere(&marker)?).then_some(()));
    wait_until("the end of the action's processes", LIMIT, gone).unwrap();
}

/// What waits for inputs is in no journal: the client asks again, and the inputs that came before are there.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_inputs_outlives_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let _worker = Worker::start(MORTAR, &server.grpc(), &directory.path().join("work"), &[]).unwrap();
    let (remote, nap) = (client(&server.grpc()), Nap::new(&marker(), 0));
    let follow = InputsFollow::new("killed", LIMIT).unwrap();
    let context = Context { inputs_follow: Some(follow), ..Context::internal() };
    let (asking, request) = (remote.clone(), nap.request());
    let asked: Asked = tokio::spawn(async move { asking.execute(&context, request, &()).await });
    wait_for_waiting(&server, 1);
    let (some, others) = nap.blobs.split_at(2);
    put_all(&remote, some).await;
    server.kill().unwrap();
    server.restart().unwrap();
    wait_for_waiting(&server, 1);
    put_all(&remote, others).await;
    assert_rested(asked).await;
    wait_for_waiting(&server, 0);
    assert_eq!(executions(&server, "executed"), 1);
}

/// How many executions wait for inputs.
fn wait_for_waiting(server: &Mortar, expected: u64) {
    let line = format!("mortar_actions_awaiting_inputs {expected}\n");
    let reached = || {
        let page = String::from_utf8(http::get(server.address(), "/metrics")?.body)?;
        Ok(page.contains(&line).then_some(()))
    };
    wait_until(&format!("{expected} executions that wait for inputs"), LIMIT, reached).unwrap();
}
