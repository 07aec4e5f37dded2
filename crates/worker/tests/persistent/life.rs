//! How long processes live, and what is left of them.

use crate::lab::{Job, Lab, mark, processes, wait_until};
use std::{
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn one_that_waits_too_long_goes() {
    let mark = &mark("idle");
    let lab = Lab::with(|config| config.persistent_idle = Duration::from_millis(50)).await;
    let job = Job::new("say x").argument(mark);
    assert_eq!(lab.told(&job).await.1, 1);
    wait_until("the end of the idle", || processes(mark) == 0).await;
    wait_until("the end of its directory", || lab.directories() == 0).await;
    assert_eq!(lab.worker.idle_persistent_workers(), 0);
    assert_eq!(lab.told(&job.input("new", "")).await.1, 1);
}

#[tokio::test]
async fn there_are_never_more_than_slots() {
    let lab = Lab::with(|config| config.slots = 2).await;
    let job = |key: &str, input: &str| Job::new("say x").argument(key).input("new", input);
    for (key, input, requests) in
        [("--a", "1", 1), ("--b", "1", 1), ("--a", "2", 2), ("--c", "1", 1), ("--a", "3", 3), ("--b", "2", 1)]
    {
        assert_eq!(lab.told(&job(key, input)).await.1, requests, "{key} {input}");
        assert!(lab.worker.idle_persistent_workers() <= 2);
    }
}

#[tokio::test]
async fn actions_at_the_same_time_have_processes_of_their_own() {
    let lab = Lab::new().await;
    let job = |name: &str| Job::new(&format!("copy in out; say {name}")).input("in", name).output("out");
    for turn in ["1", "2"] {
        let (first, second) = (job(&format!("a{turn}")), job(&format!("b{turn}")));
        let (first, second) = tokio::join!(lab.told(&first), lab.told(&second));
        assert_eq!((first.0, second.0), (format!("a{turn}\n"), format!("b{turn}\n")));
    }
}

#[tokio::test]
async fn a_cancelled_action_ends_its_process() {
    let mark = &mark("cancelled");
    let lab = Lab::new().await;
    let (job, cancelled) = (Job::new("hang").argument(mark), CancellationToken::new());
    let run = lab.run_until(&job, cancelled.clone());
    let cancel = async {
        wait_until("the start", || processes(mark) > 0).await;
        cancelled.cancel();
    };
    let (outcome, ()) = tokio::join!(run, cancel);
    assert!(matches!(outcome.unwrap_err().kind(), mortar_model::Kind::Cancelled { .. }));
    assert_eq!((processes(mark), lab.directories()), (0, 0));
}

#[tokio::test]
async fn none_outlives_its_worker() {
    let mark = &mark("worker");
    let lab = Lab::new().await;
    let job = Job::new("fork; say x").argument(mark);
    assert_eq!(lab.told(&job).await.1, 1);
    assert_eq!(processes(mark), 2);
    drop(lab);
    assert_eq!(processes(mark), 0);
}

#[tokio::test]
async fn a_worker_that_is_killed_takes_them_with_it() {
    const CHILD: &str = "MORTAR_TEST_TO_BE_KILLED";
    if std::env::var_os(CHILD).is_some() {
        let lab = Lab::new().await;
        let job = Job::new("fork; say x").argument(&mark("killed"));
        assert_eq!(lab.told(&job).await.1, 1);
        println!("ready");
        return std::future::pending().await;
    }
    let itself = std::env::current_exe().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut child = Command::new(itself)
        .args(["--exact", "life::a_worker_that_is_killed_takes_them_with_it", "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut heard, mut stdout) = (Vec::new(), child.stdout.take().unwrap());
    while !heard.ends_with(b"ready\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        heard.push(byte[0]);
    }
    let mark = &format!("--killed-{}", child.id());
    assert!(processes(mark) > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the end of what the killed one ran", || processes(mark) == 0).await;
}

#[tokio::test]
async fn without_a_sandbox_it_is_the_same() {
    let mark = &mark("bare");
    let lab = Lab::with(|config| config.sandbox.isolation = mortar_sandbox::Isolation::None).await;
    for turn in 1..=2 {
        let job = Job::new("fork; copy in out; list .").argument(mark);
        let job = job.input("in", &turn.to_string()).output("out");
        assert_eq!(lab.told(&job).await, ("args bin/data bin/tool.py in out\n".into(), turn));
    }
    drop(lab);
    assert_eq!(processes(mark), 0);
}
