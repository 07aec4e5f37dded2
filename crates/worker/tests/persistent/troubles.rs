//! Processes that do what they should not: what becomes of them, of their action, and of what others have.

use crate::lab::{Job, Lab, mark, processes};
use mortar_model::{Context, LocalFiles, Termination};
use mortar_sandbox::Isolation;
use std::{fs, os::unix::fs::MetadataExt, time::Duration};

#[tokio::test]
async fn what_is_no_answer_ends_the_process_and_the_action_is_run_without() {
    let mark = &mark("what-is-no-answer-ends-the-process-and-the-action-is-run-without");
    let lab = Lab::new().await;
    let cases = [
        ("die 7", "it ended with exit code 7"),
        ("kill", "signal 9"),
        ("print hello", "beginning with `hello"),
        ("complain of this; die 0", "of this"),
    ];
    for new in [Job::new, Job::json] {
        for (commands, told) in cases {
            // The first request of a process, and a later one.
            for before in [false, true] {
                if before {
                    assert_eq!(lab.told(&new("say well").argument(mark)).await.1, 1);
                }
                let job = new(&format!("{commands}; who; write out x")).argument(mark).output("out");
                let outcome = lab.run(&job).await.unwrap();
                assert!(outcome.message.contains(told), "{commands}: {}", outcome.message);
                assert!(outcome.message.starts_with("the persistent worker failed: "), "{}", outcome.message);
                assert_eq!(outcome.result.exit_code, 0, "{commands}");
                assert_eq!(outcome.result.metadata.persistent_worker, None);
                assert_eq!(outcome.result.files.len(), 1);
                assert!(lab.text(outcome.result.stderr_digest).await.contains("alone"), "{commands}");
                assert_eq!((processes(mark), lab.directories()), (0, 0), "{commands}");
            }
        }
    }
}

#[tokio::test]
async fn what_comes_unasked_is_not_the_answer_to_the_next() {
    let mark = &mark("what-comes-unasked-is-not-the-answer-to-the-next");
    let lab = Lab::new().await;
    let job = Job::json("say first; print {\"output\":\"of nobody\"}").argument(mark);
    // Two answers at once: the first that comes is taken for the answer, or both for none.
    lab.run(&job).await.unwrap();
    let outcome = lab.run(&Job::json("say second").argument(mark)).await.unwrap();
    assert_eq!(lab.text(outcome.result.stderr_digest).await, "second\n");
}

#[tokio::test]
async fn an_answer_before_the_end_counts() {
    let mark = &mark("an-answer-before-the-end-counts");
    let lab = Lab::new().await;
    for _ in 0..2 {
        let (said, requests) = lab.told(&Job::new("say bye; last").argument(mark)).await;
        assert_eq!((said.as_str(), requests), ("bye\n", 1));
        crate::lab::wait_until("its end", || processes(mark) == 0).await;
    }
}

#[tokio::test]
async fn no_answer_in_time_is_the_end_of_the_action_too() {
    let mark = &mark("no-answer-in-time-is-the-end-of-the-action-too");
    let lab = Lab::new().await;
    let limit = Duration::from_millis(1500);
    let job = Job::new("write out part; complain of sleep; hang").argument(mark).output("out");
    let outcome = lab.run(&Job { timeout: Some(limit), ..job }).await.unwrap();
    assert_eq!(outcome.termination, Termination::TimedOut { limit });
    assert!(outcome.message.contains("1.5 s"), "{}", outcome.message);
    assert_eq!(lab.text(outcome.result.stderr_digest).await, "of sleep\n");
    assert_eq!(outcome.result.files.len(), 1);
    assert_eq!((processes(mark), lab.directories()), (0, 0));
}

#[tokio::test]
async fn one_that_takes_too_much_memory_is_killed() {
    let mark = &mark("one-that-takes-too-much-memory-is-killed");
    let lab = Lab::with(|config| config.usable.memory = Some(200 << 20)).await;
    let grow = Job::new("grow 400").argument(mark);
    let outcome = lab.run(&grow).await.unwrap();
    assert_ne!(outcome.result.exit_code, 0);
    assert!(
        outcome.message.contains("memory") || outcome.message.contains("MemoryError"),
        "{}",
        outcome.message
    );
    assert_eq!((processes(mark), lab.directories()), (0, 0));
    // It has room for others beside.
    assert_eq!(lab.told(&Job::new("say x").argument(mark)).await.1, 1);
    let outcome = lab.run(&grow.input("again", "")).await.unwrap();
    assert_ne!(outcome.result.exit_code, 0);
    assert!(
        outcome.message.contains("memory") || outcome.message.contains("MemoryError"),
        "{}",
        outcome.message
    );
    assert_eq!(processes(mark), 0);
}

#[tokio::test]
async fn one_that_writes_too_much_is_killed() {
    let mark = &mark("one-that-writes-too-much-is-killed");
    let lab = Lab::with(|config| config.usable.output = Some(8 << 20)).await;
    // Many inputs are no outputs.
    let job = |commands: &str| Job::new(commands).argument(mark).input("large", &"x".repeat(9 << 20));
    assert_eq!(lab.told(&job("say x").output("out/a")).await.1, 1);
    for seconds in ["0", "1000"] {
        let fill = job(&format!("fill out/a 5 0; fill out/b 5 {seconds}")).output("out/a").output("out/b");
        let outcome = lab.run(&fill).await.unwrap();
        assert_ne!(outcome.result.exit_code, 0);
        assert!(outcome.message.contains("wrote more than the limit"), "{}", outcome.message);
        assert_eq!((processes(mark), lab.directories()), (0, 0));
    }
}

#[tokio::test]
async fn what_others_have_is_out_of_its_reach() {
    let mark = &mark("what-others-have-is-out-of-its-reach");
    let lab = Lab::new().await;
    // Large enough to be a file of the store's, to which inputs are links.
    let (large, tool) = ("i".repeat(300_000), "t".repeat(300_000));
    let job = Job::new("attack in/large; attack bin/large; attack bin/tool.py; list bin");
    let job = job.input("in/large", &large).tool("bin/large", &tool).output("in/out").argument(mark);
    let mut before = Vec::new();
    for content in [&large, &tool] {
        let digest = lab.put(content.clone()).await;
        let file = lab.disk.local_file(&Context::internal(), digest).await.unwrap().unwrap();
        let found = fs::metadata(file.path()).unwrap();
        before.push((digest, content, found.mode(), found.mtime()));
    }
    let (said, requests) = lab.told(&job).await;
    assert!(said.ends_with("attack: \nattack: \nbin/data bin/large bin/tool.py\n"), "{said}");
    for (digest, content, mode, time) in before {
        let file = lab.disk.local_file(&Context::internal(), digest).await.unwrap().unwrap();
        let found = fs::metadata(file.path()).unwrap();
        assert_eq!((found.mode(), found.mtime()), (mode, time));
        assert_eq!(fs::read_to_string(file.path()).unwrap(), **content);
    }
    // What it could do to its own inputs is not there any more.
    let again = job.input("args", "copy in/large in/out");
    let outcome = lab.run(&again).await.unwrap();
    assert_eq!(outcome.result.metadata.persistent_worker.unwrap().requests, requests + 1);
    assert_eq!(lab.text(Some(outcome.result.files[0].digest)).await, large);
}

#[tokio::test]
async fn one_that_changes_its_tools_is_found_out() {
    let mark = &mark("one-that-changes-its-tools-is-found-out");
    let job = Job::new("retool; write bin/out x").argument(mark).output("bin/out");
    let lab = Lab::new().await;
    assert_eq!(lab.told(&job).await.1, 1);
    drop(lab);
    // Without a sandbox nothing keeps it from it.
    let lab = Lab::with(|config| config.sandbox.isolation = Isolation::None).await;
    let outcome = lab.run(&job).await.unwrap();
    assert!(outcome.message.contains("changed its own tools"), "{}", outcome.message);
    assert_eq!((outcome.result.exit_code, outcome.result.files.len()), (0, 1));
    assert_eq!((processes(mark), lab.directories()), (0, 0));
}
