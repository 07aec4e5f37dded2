//! Ctrl-C: what runs is finished; at the second one everything ends at once.

use crate::{
    LIMIT, MORTAR,
    action::{client, execute, marker, upload_nap},
};
use mortar_model::{Digest, DigestFunction, Kind};
use mortar_testkit::{
    mortar::{Mortar, Worker, runs_anywhere},
    process::wait_until,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_finished_and_nothing_is_begun() {
    for isolation in ["namespaces", "none"] {
        finishes(isolation).await;
    }
}

async fn finishes(isolation: &str) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut mortar = Mortar::start(MORTAR, "up", &data, &["--isolation", isolation]).unwrap();
    let remote = client(&mortar.grpc());
    let marker = marker();
    let nap = upload_nap(&remote, &marker, 4).await;
    let other = upload_nap(&remote, &marker, 0).await;
    let running = tokio::spawn({
        let remote = remote.clone();
        async move { execute(&remote, nap).await }
    });
    mortar.wait_until_it_runs(&marker, LIMIT).unwrap();

    mortar.ctrl_c().unwrap();
    mortar.wait_for_log("once more to stop at once", LIMIT).unwrap();
    let refused = execute(&remote, other).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::Unavailable { .. }), "{refused:?}");

    let result = running.await.unwrap().unwrap().result;
    assert_eq!((result.exit_code, result.stdout_digest), (0, Some(rested())));
    assert_eq!(mortar.end(LIMIT).unwrap().code(), Some(0), "{}", mortar.log().unwrap());
    assert!(!mortar.log().unwrap().contains("left behind"), "{}", mortar.log().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_finishes_what_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let mut worker = Worker::start(MORTAR, &server.grpc(), &directory.path().join("work"), &[]).unwrap();
    let (remote, marker) = (client(&server.grpc()), marker());
    let nap = upload_nap(&remote, &marker, 2).await;
    let running = tokio::spawn(async move { execute(&remote, nap).await });
    worker.wait_until_it_runs(&marker, LIMIT).unwrap();
    worker.ctrl_c().unwrap();
    let result = running.await.unwrap().unwrap().result;
    assert_eq!((result.exit_code, result.stdout_digest), (0, Some(rested())));
    assert_eq!(worker.end(LIMIT).unwrap().code(), Some(0), "{}", worker.log().unwrap());
    assert_eq!(server.interrupt(LIMIT).unwrap().code(), Some(0), "{}", server.log().unwrap());
}

/// A server that ends lets what its workers run be finished, and its clients hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_its_workers() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
    let mut worker = Worker::start(MORTAR, &server.grpc(), &directory.path().join("work"), &[]).unwrap();
    let (remote, marker) = (client(&server.grpc()), marker());
    let nap = upload_nap(&remote, &marker, 2).await;
    let running = tokio::spawn(async move { execute(&remote, nap).await });
    worker.wait_until_it_runs(&marker, LIMIT).unwrap();
    server.ctrl_c().unwrap();
    let result = running.await.unwrap().unwrap().result;
    assert_eq!((result.exit_code, result.stdout_digest), (0, Some(rested())));
    assert_eq!(server.end(LIMIT).unwrap().code(), Some(0), "{}", server.log().unwrap());
    // It goes on dialling, and ends when it is told to.
    worker.ctrl_c().unwrap();
    assert_eq!(worker.end(LIMIT).unwrap().code(), Some(0), "{}", worker.log().unwrap());
}

#[test]
fn idle_it_ends_at_once_and_can_start_again() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        for verb in ["up", "server"] {
            let mut mortar = Mortar::start(MORTAR, verb, &directory.path().join("data"), &[]).unwrap();
            assert_eq!(mortar.interrupt(LIMIT).unwrap().code(), Some(0), "{}", mortar.log().unwrap());
        }
    }
    let left: Vec<_> = std::fs::read_dir(directory.path().join("data/work"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"], "directories of workers are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_ends_everything_at_once() {
    for isolation in ["namespaces", "none"] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut mortar = Mortar::start(MORTAR, "up", &data, &["--isolation", isolation]).unwrap();
        let marker = start_endless_nap(&mortar).await;
        mortar.wait_until_it_runs(&marker, LIMIT).unwrap();
        mortar.ctrl_c().unwrap();
        mortar.wait_for_log("once more to stop at once", LIMIT).unwrap();
        assert!(runs_anywhere(&marker).unwrap(), "the first one stopped the action");
        mortar.ctrl_c().unwrap();
        assert_eq!(mortar.end(LIMIT).unwrap().code(), Some(130), "{}", mortar.log().unwrap());
        assert_gone(&marker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_leaves_no_action_behind() {
    for isolation in ["namespaces", "none"] {
        let directory = tempfile::tempdir().unwrap();
        let server = Mortar::server(MORTAR, &directory.path().join("server")).unwrap();
        let work = directory.path().join("work");
        let mut worker = Worker::start(MORTAR, &server.grpc(), &work, &["--isolation", isolation]).unwrap();
        let marker = start_endless_nap(&server).await;
        worker.wait_until_it_runs(&marker, LIMIT).unwrap();
        worker.kill().unwrap();
        assert_gone(&marker);
    }
}

/// What the action says at its end.
fn rested() -> Digest {
    Digest::of(DigestFunction::Sha256, b"rested\n")
}

/// Begins an action that would outlive any test, and its marker.
async fn start_endless_nap(mortar: &Mortar) -> String {
    let (remote, marker) = (client(&mortar.grpc()), marker());
    let nap = upload_nap(&remote, &marker, 100_000).await;
    tokio::spawn(async move { execute(&remote, nap).await });
    marker
}

#[track_caller]
fn assert_gone(marker: &str) {
    let gone = || Ok((!runs_anywhere(marker)?).then_some(()));
    wait_until("the end of the action's processes", LIMIT, gone).unwrap();
}
