//! `mortar logs`: what an action writes, while it runs in the server's process or on a worker elsewhere, and afterwards.

use crate::{
    LIMIT, MORTAR,
    action::{client, execute, marker, upload, upload_nap},
    assert_refused, mortar, run,
};
use mortar_model::{Context, Digest, ExecuteRequest, Executor, Outcome, RequestMetadata};
use mortar_remote::Remote;
use mortar_testkit::{
    mortar::{Mortar, Worker, runs_anywhere},
    process::{Finished, Running, wait_until},
};
use serde_json::Value;
use std::path::Path;
use tokio::task::JoinHandle;

fn said(finished: Finished) -> (String, String) {
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    (finished.stdout, finished.stderr)
}

/// The operations that are not over, first come first.
fn operations(here: &Path, server: &Mortar) -> Vec<Value> {
    let (told, _) = said(run(here, &["operations", "list", "--server", &server.grpc(), "--json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    told["operations"].as_array().unwrap().clone()
}

fn follow(here: &Path, server: &Mortar, more: &[&str]) -> Running {
    let url = server.grpc();
    Running::start(&mut mortar(here, &[&["logs", "--server", &url], more].concat())).unwrap()
}

fn begin(remote: &Remote, action: Digest) -> JoinHandle<mortar_model::Result<Outcome>> {
    let remote = remote.clone();
    tokio::spawn(async move { execute(&remote, action).await })
}

/// Ends the nap of an action, which goes on after it.
fn wake(marker: &str) {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let id = process
            .file_name()
            .to_str()
            .and_then(|id| id.parse().ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id.filter(|_| name.trim_end() == marker) {
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        }
    }
}

/// Watches an action that runs, under two names, to its end.
async fn watch_one(here: &Path, server: &Mortar) {
    let (remote, marker) = (client(&server.grpc()), marker());
    let script = format!("echo begun; echo woe >&2; ./{marker} 100000; echo rested; exit 3");
    let action = upload(&remote, &marker, &script, false).await;
    let (first, second) = (begin(&remote, action), begin(&remote, action));
    wait_until("the nap", LIMIT, || Ok(runs_anywhere(&marker)?.then_some(()))).unwrap();
    let both = || Ok(Some(operations(here, server)).filter(|known| known.len() == 2));
    let known = wait_until("two operations", LIMIT, both).unwrap();
    let name = |at: usize| known[at]["name"].as_str().unwrap();

    let id = name(0).strip_prefix("operations/").unwrap();
    let mut watches = [
        follow(here, server, &[name(0)]),
        follow(here, server, &[&name(1)[name(1).len() - 12..]]),
        follow(here, server, &[&id[..20], "--stderr"]),
    ];
    for watching in &mut watches[..2] {
        watching.wait_for_output("begun\n", LIMIT).unwrap();
    }
    for watching in &watches {
        let told = || Ok(watching.stderr()?.contains("woe\n").then_some(()));
        wait_until("standard error", LIMIT, told).unwrap();
    }
    assert!(runs_anywhere(&marker).unwrap(), "all of that came while it ran");
    let now = said(run(here, &["logs", name(0), "--follow=false", "--stdout", "--server", &server.grpc()]));
    assert_eq!(now, ("begun\n".into(), String::new()));
    let action = known[0]["action"].as_str().unwrap();
    let many = run(here, &["logs", &action[..12], "--server", &server.grpc()]);
    assert!(many.stderr.contains("may mean 2 operations:\n  operations/"), "{}", many.stderr);

    wake(&marker);
    for outcome in [first, second] {
        assert_eq!(outcome.await.unwrap().unwrap().result.exit_code, 3);
    }
    let [first, second, third] = watches.map(|watching| said(watching.wait(LIMIT).unwrap()));
    assert_eq!(first.0, "begun\nrested\n");
    for told in [&first, &second] {
        // The shell may tell of the nap's end, too.
        assert!(
            told.1.starts_with("woe\n") && told.1.contains("the action ended with exit code 3\n"),
            "{told:?}"
        );
    }
    assert_eq!((second.0.as_str(), third.0.as_str()), ("begun\nrested\n", ""));
    let over = said(run(here, &["logs", name(0), "--stdout", "--server", &server.grpc()]));
    assert_eq!(over.0, "begun\nrested\n", "from the result");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_in_the_process_of_the_server_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let server = Mortar::start(MORTAR, "up", &here.join("data"), &["--slots", "1"]).unwrap();
    watch_one(here, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_elsewhere_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let server = Mortar::server(MORTAR, &here.join("data")).unwrap();
    let _worker = Worker::start(MORTAR, &server.grpc(), &here.join("work"), &["--slots", "1"]).unwrap();
    watch_one(here, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_begins_the_log_anew() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let server = Mortar::server(MORTAR, &here.join("data")).unwrap();
    let start =
        |name: &str| Worker::start(MORTAR, &server.grpc(), &here.join(name), &["--slots", "1"]).unwrap();
    let mut doomed = start("doomed");
    let (remote, marker) = (client(&server.grpc()), marker());
    let action =
        upload(&remote, &marker, &format!("echo begun; ./{marker} 100000; echo rested"), false).await;
    let runs = begin(&remote, action);
    doomed.wait_until_it_runs(&marker, LIMIT).unwrap();
    let name = operations(here, &server)[0]["name"].as_str().unwrap().to_owned();
    let mut watching = follow(here, &server, &[&name]);
    watching.wait_for_output("begun\n", LIMIT).unwrap();
    doomed.kill().unwrap();
    let heir = start("heir");
    heir.wait_until_it_runs(&marker, LIMIT).unwrap();
    let twice = || Ok((watching.stdout()?.matches("begun\n").count() == 2).then_some(()));
    wait_until("the second attempt", LIMIT, twice).unwrap();
    wake(&marker);
    assert_eq!(runs.await.unwrap().unwrap().result.exit_code, 0);
    let (stdout, stderr) = said(watching.wait(LIMIT).unwrap());
    assert_eq!(stdout, "begun\nbegun\nrested\n");
    assert!(stderr.contains("the worker failed; another begins anew, and with it this log\n"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_is_not_known_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let server = Mortar::server(MORTAR, &here.join("data")).unwrap();
    let (remote, url) = (client(&server.grpc()), server.grpc());
    let action = upload_nap(&remote, &marker(), 0).await;
    let waits = begin(&remote, action);
    let one = || Ok(operations(here, &server).pop());
    let name = wait_until("an operation", LIMIT, one).unwrap()["name"].as_str().unwrap().to_owned();
    let begins = format!("operation `{name}` is not on a worker yet: no worker is connected");
    let (_, told) = said(run(here, &["logs", &name, "--follow=false", "--server", &url]));
    assert!(told.starts_with(&begins), "{told}");
    let watching = follow(here, &server, &[&name]);
    let told = || Ok(watching.stderr()?.contains(&begins).then_some(()));
    wait_until("that it waits", LIMIT, told).unwrap();
    let _worker = Worker::start(MORTAR, &url, &here.join("work"), &["--slots", "1"]).unwrap();
    assert_eq!(waits.await.unwrap().unwrap().result.exit_code, 0);
    assert_eq!(said(watching.wait(LIMIT).unwrap()).0, "rested\n");

    let unknown = run(here, &["logs", "operations/none", "--server", &url]);
    assert_refused(
        &unknown,
        1,
        "error: no operation or action that the server knows is named `operations/none`\n\
         Hint: operations are known while they wait and run, and for two minutes after their end; then the action's \
         result has its logs\n",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_operation_stops_at_once_also_where_others_of_its_build_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let flags = ["--slots", "2", "--abandoned", "finish-when-idle"];
    let server = Mortar::start(MORTAR, "up", &here.join("data"), &flags).unwrap();
    let remote = client(&server.grpc());
    let mut naps = Vec::new();
    for _ in 0..2 {
        let marker = marker();
        let action_digest = upload_nap(&remote, &marker, 100_000).await;
        let request = RequestMetadata { tool_invocation_id: "evening".into(), ..RequestMetadata::default() };
        let (remote, context) = (remote.clone(), Context { request: request.into(), ..Context::internal() });
        let runs = tokio::spawn(async move {
            let request = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
            remote.execute(&context, request, &()).await
        });
        server.wait_until_it_runs(&marker, LIMIT).unwrap();
        naps.push((marker, runs));
    }
    let name = operations(here, &server)[0]["name"].as_str().unwrap().to_owned();
    said(run(here, &["operations", "cancel", &name, "--server", &server.grpc()]));
    let gone = || Ok((!runs_anywhere(&naps[0].0)?).then_some(()));
    wait_until("the end of the action's processes", LIMIT, gone).unwrap();
    assert!(runs_anywhere(&naps[1].0).unwrap(), "the other one goes on");
    for (_, runs) in naps {
        runs.abort();
    }
}
