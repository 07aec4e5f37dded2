//! `mortar status`, `mortar operations …` and `mortar workers …` against servers that do something.

use crate::{
    LIMIT, MORTAR,
    action::{client, marker, upload_nap},
    assert_refused, mortar, run,
};
use mortar_model::{Context, ExecuteRequest, Executor, Outcome, RequestMetadata};
use mortar_remote::Remote;
use mortar_testkit::{
    mortar::{Mortar, Worker, runs_anywhere},
    process::{self, Finished, Running, wait_until},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use tokio::task::JoinHandle;

/// Asks for a nap as a build would.
async fn ask(remote: &Remote, marker: &str, seconds: u32) -> JoinHandle<mortar_model::Result<Outcome>> {
    let action_digest = upload_nap(remote, marker, seconds).await;
    let request = RequestMetadata {
        action_mnemonic: "Nap".into(),
        target_id: "//beds:large".into(),
        tool_invocation_id: "evening".into(),
        ..RequestMetadata::default()
    };
    let (remote, context) = (remote.clone(), Context { request: request.into(), ..Context::internal() });
    tokio::spawn(async move {
        let request = ExecuteRequest { action_digest, skip_cache_lookup: true, priority: 0 };
        remote.execute(&context, request, &()).await
    })
}

fn said(finished: Finished) -> String {
    let Finished { status, stdout, stderr } = finished;
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    stdout
}

fn status(directory: &Path, server: &Mortar) -> Value {
    serde_json::from_str(&said(run(directory, &["status", &server.grpc(), "--json"]))).unwrap()
}

/// The status, once it is like this.
fn status_when(directory: &Path, server: &Mortar, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let reached = || Ok(Some(status(directory, server)).filter(|status| holds(status)));
    wait_until(what, LIMIT, reached).unwrap()
}

fn tend(directory: &Path, data: &Path, verb: &str, worker: &str) -> Finished {
    let mut command = mortar(directory, &["workers", verb, worker, "--dir"]);
    process::run(command.arg(data), LIMIT).unwrap()
}

fn wait_until_gone(marker: &str) {
    let gone = || Ok((!runs_anywhere(marker)?).then_some(()));
    wait_until("the end of the action's processes", LIMIT, gone).unwrap();
}

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let mut found: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut keys = keys.to_vec();
    found.sort_unstable();
    keys.sort_unstable();
    assert_eq!(found, keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_what_waits_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let server = Mortar::start(MORTAR, "up", &here.join("data"), &["--slots", "1"]).unwrap();
    let remote = client(&server.grpc());
    let (first, second) = (marker(), marker());
    let runs = ask(&remote, &first, 100_000).await;
    server.wait_until_it_runs(&first, LIMIT).unwrap();
    let waits = ask(&remote, &second, 0).await;
    let told = status_when(here, &server, "one that waits", |status| status["queued"] == 1);
    assert_keys(
        &told,
        &["version", "closing", "queued", "oldest_wait_ms", "waiting", "workers", "running", "counters"],
    );
    assert_keys(
        &told["waiting"][0],
        &["queued", "oldest_wait_ms", "platform", "cpu_millis", "memory_bytes", "reason"],
    );
    assert_eq!(told["waiting"][0]["reason"], "it waits for its turn: the workers that could run it are busy");
    let worker = &told["workers"][0];
    assert_keys(
        worker,
        &[
            "name",
            "standing",
            "slots",
            "busy",
            "platform",
            "cpu_millis",
            "memory_bytes",
            "layers",
            "images",
            "connected_for_ms",
        ],
    );
    assert_eq!(
        (&worker["slots"], &worker["busy"], &worker["standing"]),
        (&json!(1), &json!(1), &json!("serving"))
    );
    let running = &told["running"][0];
    assert_keys(
        running,
        &[
            "action",
            "instance",
            "mnemonic",
            "target",
            "invocation",
            "worker",
            "running_for_ms",
            "waiters",
            "attempt",
            "cancelled",
        ],
    );
    assert_eq!(
        (&running["mnemonic"], &running["target"], &running["invocation"]),
        (&json!("Nap"), &json!("//beds:large"), &json!("evening"))
    );
    assert_eq!((&running["attempt"], &running["worker"]), (&json!(1), &worker["name"]));

    let text = said(run(here, &["status", &server.grpc()]));
    let begins =
        format!("{}, version {}\n1 waiting (the oldest for ", server.grpc(), env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with(&begins), "{text}");
    for needle in [
        " 1 running, 1 worker\n",
        "\nthe longest wait: it waits for its turn",
        "\nWAITING  OLDEST",
        "it waits for its turn",
        "\nWORKER",
        "1 of 1",
        "\nNap ",
    ] {
        assert!(text.contains(needle), "{needle}: {text}");
    }
    runs.abort();
    waits.abort();
    wait_until_gone(&first);
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_listed_and_cancelled() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let server = Mortar::start(MORTAR, "up", &here.join("data"), &["--slots", "1"]).unwrap();
    let (remote, url) = (client(&server.grpc()), server.grpc());
    let list = |more: &[&str]| said(run(here, &[&["operations", "list", "--server", &url], more].concat()));
    let (first, second) = (marker(), marker());
    let runs = ask(&remote, &first, 100_000).await;
    server.wait_until_it_runs(&first, LIMIT).unwrap();
    let waits = ask(&remote, &second, 0).await;
    status_when(here, &server, "one that waits", |status| status["queued"] == 1);

    let told: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let operations = told["operations"].as_array().unwrap();
    let stages: Vec<_> = operations.iter().map(|operation| operation["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["running", "waiting"]);
    let keys = ["name", "stage", "action", "mnemonic", "target", "invocation", "asked_for_ms"];
    assert_keys(&operations[0], &keys);
    assert_eq!(operations[0]["mnemonic"], "Nap");
    let name = operations[0]["name"].as_str().unwrap();
    let text = list(&["--instance", ""]);
    assert!(text.starts_with("OPERATION") && text.contains(name) && text.contains("//beds:large"), "{text}");

    let cancelled = said(run(here, &["operations", "cancel", name, "--server", &url]));
    assert_eq!(cancelled, format!("operation `{name}` was told to end\n"));
    let end = runs.await.unwrap().unwrap_err().to_string();
    assert!(end.contains(&format!("operation `{name}` was cancelled")), "{end}");
    wait_until_gone(&first);
    assert_eq!(waits.await.unwrap().unwrap().result.exit_code, 0, "the other one has its turn");

    let unknown = run(here, &["operations", "cancel", "operations/none", "--server", &url]);
    assert_refused(
        &unknown,
        1,
        "error: operation `operations/none` was not found\n\
         Hint: operations are known while they wait and run, and for two minutes after their end if the server is not \
         restarted meanwhile\n",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_watched_until_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let server = Mortar::server(MORTAR, &directory.path().join("data")).unwrap();
    let mut watching =
        Running::start(&mut mortar(directory.path(), &["status", &server.grpc(), "--watch"])).unwrap();
    let twice = || Ok((watching.stdout()?.matches("no worker is connected").count() >= 2).then_some(()));
    wait_until("a second block", LIMIT, twice).unwrap();
    watching.signal(Signal::INT).unwrap();
    let ended = wait_until("the end", LIMIT, || watching.ended()).unwrap();
    assert_eq!(ended.code(), Some(0));
    let blocks = watching.stdout().unwrap();
    assert!(!blocks.contains('\x1b') && blocks.contains("\n\ngrpc://"), "{blocks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_paused_resumed_and_drained() {
    let directory = tempfile::tempdir().unwrap();
    let (here, data) = (directory.path(), directory.path().join("data"));
    let server = Mortar::server(MORTAR, &data).unwrap();
    let mut worker = Worker::start(MORTAR, &server.grpc(), &here.join("work"), &["--slots", "1"]).unwrap();
    let told = status_when(here, &server, "a worker", |status| status["workers"][0]["name"].is_string());
    let name = told["workers"][0]["name"].as_str().unwrap();
    let remote = client(&server.grpc());

    assert_eq!(said(tend(here, &data, "pause", name)), format!("worker `{name}` is paused\n"));
    assert_eq!(status(here, &server)["workers"][0]["standing"], "paused");
    let waits = ask(&remote, &marker(), 0).await;
    let told = status_when(here, &server, "one that waits", |status| status["queued"] == 1);
    let reason = format!("every worker that could run it is paused, such as `{name}`");
    assert_eq!(told["waiting"][0]["reason"], reason);

    assert_eq!(said(tend(here, &data, "resume", name)), format!("worker `{name}` takes work\n"));
    assert_eq!(waits.await.unwrap().unwrap().result.exit_code, 0);

    let drained = said(tend(here, &data, "drain", name));
    assert_eq!(drained, format!("worker `{name}` finishes what it runs, and leaves\n"));
    assert_eq!(worker.end(LIMIT).unwrap().code(), Some(0), "{}", worker.log().unwrap());
    status_when(here, &server, "no worker", |status| status["workers"] == json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (here, data) = (directory.path(), directory.path().join("data"));
    let mut server = Mortar::server(MORTAR, &data).unwrap();
    let unknown =
        "error: worker `nobody` was not found\nHint: `mortar status` lists the workers of a server\n";
    assert_refused(&tend(here, &data, "pause", "nobody"), 1, unknown);
    let url = server.grpc();
    assert_eq!(server.interrupt(LIMIT).unwrap().code(), Some(0));
    let gone = format!("error: the server at `{url}` cannot be reached: Connection refused (os error 111)\n");
    assert_refused(&run(here, &["status", &url]), 1, &gone);
    let alone = tend(here, &data, "drain", "nobody");
    let nobody = format!(
        "error: no server runs on `{0}`: nobody answers on `{0}/admin.sock`\n\
         Hint: name the data directory of a server that runs with --dir\n",
        data.display()
    );
    assert_refused(&alone, 1, &nobody);
}
