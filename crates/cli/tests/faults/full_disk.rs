//! Workers whose disk is full: what they cannot do is done elsewhere, or fails with words that say why, and nothing that
//! came out half is taken for a result.

use crate::{
    MORTAR, executions,
    task::{Task, client, output, put, worker},
    wait_for,
};
use mortar_model::Kind;
use mortar_remote::Remote;
use mortar_testkit::{
    conformance::Random,
    mortar::{Mortar, Worker},
};
use tempfile::TempDir;

/// What the small disk holds, and what is too much for it.
const DISK: u64 = 48 << 20;
const TOO_MUCH: usize = 64 << 20;

struct House {
    server: Mortar,
    remote: Remote,
    small: Worker,
    directory: TempDir,
}

impl House {
    /// A server with a worker on a small disk.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
        let (dir, flags) = (directory.path().join("small"), ["--name", "small", "--slots", "1"]);
        let small = Worker::on_a_disk_of(DISK, MORTAR, &server.grpc(), &dir, &flags).unwrap();
        let remote = client(&server.grpc());
        let house = Self { server, remote, small, directory };
        wait_for(&house.server, "workers", 1);
        house
    }

    /// Adds one with room, which is not asked first: it has less to offer.
    fn add_a_large_one(&self) -> Worker {
        let (dir, flags) = (self.directory.path().join("large"), ["--name", "large", "--slots", "1"]);
        let large = Worker::start(MORTAR, &self.server.grpc(), &dir, &flags).unwrap();
        wait_for(&self.server, "workers", 2);
        large
    }

    /// Nothing of what failed stays on the small disk, and the worker goes on.
    async fn assert_small_serves(&self) {
        let task = Task { script: "echo small things > out".into(), ..Task::default() };
        let outcome = task.run(&self.remote).await.unwrap();
        assert_eq!(output(&self.remote, &outcome).await.unwrap(), "small things\n");
        assert_eq!(worker(&outcome), "small", "{}", self.small.log().unwrap());
    }
}

async fn reads_too_much(remote: &Remote, seed: u64) -> Task {
    let input = Random::seeded(seed).bytes(TOO_MUCH);
    let inputs = vec![("large".to_owned(), put(remote, input).await.unwrap())];
    Task { script: "wc -c < large > out".into(), inputs, ..Task::default() }
}

/// Whose writes fail, which it does not look at.
fn writes_too_much() -> Task {
    let script = format!("head -c {TOO_MUCH} /dev/zero > out; true");
    Task { script, ..Task::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_do_not_fit_fail_with_words() {
    let house = House::new();
    let error = reads_too_much(&house.remote, 1).await.run(&house.remote).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error.kind(), Kind::FailedPrecondition { .. }), "{error:?}");
    assert!(
        text.contains("given up after 3 attempts")
            && text.contains("the disk is full on which worker `small` runs"),
        "{text}"
    );
    house.assert_small_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_do_not_fit_are_read_elsewhere() {
    let house = House::new();
    let task = reads_too_much(&house.remote, 2).await;
    let _large = house.add_a_large_one();
    for _ in 0..2 {
        let outcome = task.run(&house.remote).await.unwrap();
        assert_eq!(output(&house.remote, &outcome).await.unwrap(), format!("{TOO_MUCH}\n"));
        assert_eq!(worker(&outcome), "large");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_do_not_fit_are_no_results() {
    let house = House::new();
    let error = writes_too_much().run(&house.remote).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("given up after 3 attempts") && text.contains("disk is full"), "{text}");
    house.assert_small_serves().await;
    let _large = house.add_a_large_one();
    let outcome = writes_too_much().run(&house.remote).await.unwrap();
    let made = output(&house.remote, &outcome).await.unwrap();
    assert!(made.len() == TOO_MUCH && made.iter().all(|byte| *byte == 0), "{} bytes", made.len());
    assert_eq!(worker(&outcome), "large");
    assert!(executions(&house.server, "retried") >= 2);
}

/// The disk is full, and has room again when the command has failed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_a_disk_that_was_full_is_no_result() {
    let house = House::new();
    let script = format!(
        "head -c {TOO_MUCH} /dev/zero > much || failed=1; sleep 2; rm much; echo whole > out; exit $failed"
    );
    let task = Task { script, ..Task::default() };
    let error = task.run(&house.remote).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("given up after 3 attempts") && text.contains("disk is full"), "{text}");
    let _large = house.add_a_large_one();
    let outcome = task.run(&house.remote).await.unwrap();
    assert_eq!(output(&house.remote, &outcome).await.unwrap(), "whole\n");
    assert_eq!((outcome.result.exit_code, worker(&outcome)), (0, "large"));
}
