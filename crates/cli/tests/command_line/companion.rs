//! The companion as a process: killed at random while it takes writes, started twice, asked and ended.

use crate::{
    LIMIT, MORTAR, run,
    upstream::{Asked, Upstream, upstream},
};
use bytes::Bytes;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Context, Digest, DigestFunction,
    DigestSet, OutputFile,
};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_testkit::{
    conformance::Random,
    mortar::{self, Mortar},
    process::{Finished, Running, wait_until},
};
use parking_lot::Mutex;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet};

const LEASE: Duration = Duration::from_secs(3 * 3600);
/// Clients that write at the same time.
const WRITERS: usize = 6;

fn start(directory: &Path, upstream: &str) -> Mortar {
    Mortar::start(MORTAR, "companion", directory, &["--upstream", upstream]).unwrap()
}

/// A call of `mortar companion` about this directory.
fn ask(directory: &Path, arguments: &[&str]) -> Finished {
    let dir = directory.to_str().unwrap();
    run(directory, &[&["companion"], arguments, &["--dir", dir]].concat())
}

fn client(url: &str) -> Remote {
    Endpoint::connect(url, Options { retry: Retry::NEVER, ..Options::default() }).unwrap()
}

fn fresh(length: usize) -> (Digest, Bytes) {
    Random::new().blob(DigestFunction::Sha256, length)
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<(Digest, Bytes)>,
    results: Vec<ActionKey>,
}

type Book = Arc<Mutex<Acknowledged>>;

/// Writes blobs and the results that name them, until the companion is gone. Each acknowledgement is noted, and told.
async fn write(client: Remote, book: Book, told: watch::Sender<usize>) {
    let context = Context::internal();
    for length in [700, 90_000, 40_000, 1_500, 5_000].into_iter().cycle() {
        let (digest, bytes) = fresh(length);
        if client.write_bytes(&context, digest, bytes.clone()).await.is_err() {
            return;
        }
        book.lock().blobs.push((digest, bytes));
        let file = OutputFile {
            path: "out".into(),
            digest,
            is_executable: false,
            contents: Bytes::new(),
            properties: None,
        };
        let result = ActionResult { files: vec![file], ..ActionResult::default() };
        let key = ActionKey::from(digest);
        if client.put(&context, key, result).await.is_err() {
            return;
        }
        book.lock().results.push(key);
        told.send_modify(|count| *count += 1);
    }
}

/// What the companion says it has, it has.
async fn assert_kept(client: &Remote, book: &Book) {
    let kept: Vec<_> = book.lock().blobs.iter().rev().take(20).cloned().collect();
    for (digest, bytes) in kept {
        let read = client.read_all(&Context::internal(), digest, 1 << 20).await.unwrap();
        assert_eq!(read, bytes, "{digest}");
    }
}

async fn assert_upstream(upstream: &Upstream, book: &Book) {
    let blobs: DigestSet = book.lock().blobs.iter().map(|(digest, _)| *digest).collect();
    let missing = upstream.store.find_missing(&Context::glance(), &blobs).await.unwrap();
    assert!(missing.is_empty(), "{} of {} acknowledged blobs are lost", missing.len(), blobs.len());
    let direct = client(&upstream.url);
    let results = std::mem::take(&mut book.lock().results);
    for key in results {
        assert!(direct.get(&Context::internal(), key).await.unwrap().is_some(), "{key:?} is lost");
    }
}

/// `MORTAR_KILL_ROUNDS` sets how often it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_it_loses_nothing_that_was_acknowledged() {
    let rounds: usize =
        std::env::var("MORTAR_KILL_ROUNDS").ok().and_then(|set| set.parse().ok()).unwrap_or(4);
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let mut companion = start(directory.path(), &upstream.url);
    let book = Book::default();
    let (mut blobs, mut early) = (0, 0);
    for round in 0..rounds {
        let (told, mut acknowledged) = watch::channel(0);
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            writers.spawn(write(client(&companion.grpc()), book.clone(), told.clone()));
        }
        // At a random moment: after so many, and a part of a millisecond.
        let random = uuid::Uuid::new_v4().as_u128();
        let enough = 1 + (random % 97) as usize;
        acknowledged.wait_for(|count| *count >= enough).await.unwrap();
        std::thread::sleep(Duration::from_micros((random >> 64) as u64 % 1_000));
        companion.kill().unwrap();
        writers.join_all().await;
        companion.restart().unwrap();
        assert_kept(&client(&companion.grpc()), &book).await;
        if round % 10 == 9 || round + 1 == rounds {
            let flushed = ask(directory.path(), &["flush"]);
            assert!(flushed.status.success(), "{}", flushed.stderr);
            assert_upstream(&upstream, &book).await;
            blobs += std::mem::take(&mut book.lock().blobs).len();
        }
        let asked = upstream.watch.asked();
        early += asked.iter().filter(|asked| matches!(asked, Asked::PutTooEarly(_))).count();
    }
    assert_eq!(early, 0, "results came before their blobs");
    assert!(blobs > 0);
    println!("{rounds} kills, {blobs} blobs acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_tells_where_the_first_is() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let first = start(directory.path(), &upstream.url);
    for flags in [&["--detach"][..], &[]] {
        let second = ask(directory.path(), &[&["run", "--upstream", &upstream.url], flags].concat());
        assert!(second.status.success(), "{}", second.stderr);
        assert_eq!(second.stdout, format!("ready {}\n", first.grpc()));
    }
    let other = ask(directory.path(), &["run", "--upstream", "grpc://127.0.0.1:1"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        other.stderr.contains("runs with other upstreams") && other.stderr.contains("--replace"),
        "{}",
        other.stderr
    );
}

/// `MORTAR_START_ROUNDS` sets how often. Each second time in what one left behind that was killed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_start_at_once_one_is_left() {
    let rounds = std::env::var("MORTAR_START_ROUNDS").ok().and_then(|set| set.parse().ok()).unwrap_or(4);
    let upstream = upstream(Some(LEASE)).await;
    let mut directory = tempfile::tempdir().unwrap();
    for round in 0..rounds {
        let dir = directory.path().to_str().unwrap();
        let begin = || {
            let mut command = mortar::command(Path::new(MORTAR), "companion");
            Running::start(command.args(["run", "--dir", dir, "--upstream", &upstream.url])).unwrap()
        };
        let mut both = [begin(), begin()];
        let urls = both.each_mut().map(|one| {
            let told = || Ok(one.stdout()?.split_once('\n').map(|(line, _)| line.to_owned()));
            wait_until("where the companion is", LIMIT, told).unwrap()
        });
        assert_eq!(urls[0], urls[1], "round {round}");
        let [ended, left] = wait_until("one of them ends", LIMIT, || {
            let ended = [both[0].ended()?, both[1].ended()?];
            Ok(match ended {
                [Some(ended), left] | [left, Some(ended)] => Some([Some(ended), left]),
                [None, None] => None,
            })
        })
        .unwrap();
        assert!(
            ended.is_some_and(|ended| ended.success()) && left.is_none(),
            "round {round}: {ended:?}, {left:?}"
        );
        let (digest, bytes) = fresh(1_000);
        let url = urls[0].strip_prefix("ready ").unwrap();
        client(url).write_bytes(&Context::internal(), digest, bytes).await.unwrap();
        if round % 2 == 0 {
            // Ended before the next ones start.
            both.iter_mut().for_each(|one| one.kill().unwrap());
        } else {
            assert!(ask(directory.path(), &["stop"]).status.success());
            directory = tempfile::tempdir().unwrap();
        }
    }
    println!("{rounds} times two");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_in_the_background_is_replaced_asked_and_ended() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let begin = |flags: &[&str]| {
        let started =
            ask(directory.path(), &[&["run", "--detach", "--upstream", &upstream.url], flags].concat());
        assert!(started.status.success(), "{}", started.stderr);
        started.stdout.trim().strip_prefix("ready ").unwrap().to_owned()
    };
    let status = || {
        let told = ask(directory.path(), &["status", "--json"]);
        assert!(told.status.success(), "{}", told.stderr);
        serde_json::from_str::<serde_json::Value>(&told.stdout).unwrap()
    };
    let url = begin(&[]);
    let first = status();
    let (digest, bytes) = fresh(1_000);
    client(&url).write_bytes(&Context::internal(), digest, bytes).await.unwrap();
    assert_eq!(begin(&["--replace"]), url);
    let second = status();
    assert_ne!(first["process"], second["process"]);
    assert_eq!((&second["url"], &second["blobs"]), (&url.as_str().into(), &1.into()));
    assert!(ask(directory.path(), &["flush"]).status.success());
    assert!(
        !upstream
            .store
            .find_missing(&Context::glance(), &DigestSet::from_iter([digest]))
            .await
            .unwrap()
            .contains(&digest)
    );
    let text = ask(directory.path(), &["status"]).stdout;
    assert!(text.contains(&upstream.url) && text.contains("nothing"), "{text}");
    assert!(ask(directory.path(), &["stop"]).status.success());
    let none = ask(directory.path(), &["status"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(none.stderr.contains("no companion runs in"), "{}", none.stderr);
    // Its port stays the same.
    assert_eq!(begin(&[]), url);
    assert!(ask(directory.path(), &["stop"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_tells_what_cannot_be_uploaded() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let companion = start(directory.path(), &upstream.url);
    upstream.watch.set_mood(crate::upstream::Mood::Away);
    let (digest, bytes) = fresh(1_000);
    client(&companion.grpc()).write_bytes(&Context::internal(), digest, bytes).await.unwrap();
    let flushed = ask(directory.path(), &["flush", "--timeout", "300ms"]);
    assert_eq!(flushed.status.code(), Some(1));
    assert!(flushed.stderr.contains("not yet upstream: 1 blobs and 0 results"), "{}", flushed.stderr);
    upstream.watch.set_mood(crate::upstream::Mood::Well);
    let flushed = ask(directory.path(), &["flush"]);
    assert!(flushed.status.success() && flushed.stderr.is_empty(), "{}", flushed.stderr);
}

/// Two sockets that are open before it starts, as systemd has it.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_may_be_open_before_it_starts() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let dir = directory.path().to_str().unwrap();
    let script = "import os, socket, sys\n\
                  tcp = socket.create_server(('127.0.0.1', 0))\n\
                  unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1] + '/opened'); unix.listen()\n\
                  print(tcp.getsockname()[1], flush=True)\n\
                  os.dup2(tcp.fileno(), 13); os.dup2(unix.fileno(), 14); os.dup2(13, 3); os.dup2(14, 4)\n\
                  os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))\n\
                  os.execv(sys.argv[2], sys.argv[2:])\n";
    let arguments =
        ["-c", script, dir, MORTAR, "companion", "run", "--dir", dir, "--upstream", &upstream.url];
    let mut command = std::process::Command::new("python3");
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir);
    let mut running = Running::start(&mut command).unwrap();
    running.wait_for_output("ready ", LIMIT).unwrap();
    let said = running.stdout().unwrap();
    let port = said.lines().next().unwrap();
    assert!(said.contains(&format!("ready grpc://127.0.0.1:{port}\n")), "{said}");
    let socket = format!("unix:{dir}/opened");
    for url in [format!("grpc://127.0.0.1:{port}"), socket] {
        let (digest, bytes) = fresh(1_000);
        client(&url).write_bytes(&Context::internal(), digest, bytes).await.unwrap();
    }
    assert!(ask(directory.path(), &["stop"]).status.success());
}

/// A programme that tells what it is called with stands for Bazel.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_starts_it_for_builds_and_not_to_shut_down() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let workspace = directory.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("WORKSPACE"), "").unwrap();
    let installed = ask(
        directory.path(),
        &["install", "--workspace", workspace.to_str().unwrap(), "--upstream", &upstream.url],
    );
    assert!(installed.status.success(), "{}", installed.stderr);
    let bazel = |arguments: &[&str]| {
        let mut command = std::process::Command::new(workspace.join("tools/bazel"));
        let output =
            command.args(arguments).env("BAZEL_REAL", "/bin/echo").env("HOME", directory.path()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(bazel(&[]), "\n");
    for command in ["shutdown", "version"] {
        assert_eq!(bazel(&["--nohome_rc", command]), format!("--nohome_rc {command}\n"));
        assert_eq!(ask(directory.path(), &["status"]).status.code(), Some(1), "{command} has started it");
    }
    let built = bazel(&["build", "//a dir:all"]);
    assert!(
        built.starts_with("--bazelrc=") && built.ends_with("cache.bazelrc build //a dir:all\n"),
        "{built}"
    );
    assert!(ask(directory.path(), &["stop"]).status.success());
}

#[test]
fn a_wrapper_of_somebody_else_stays() {
    let workspace = tempfile::tempdir().unwrap();
    let install = || run(workspace.path(), &["companion", "install", "--upstream", "grpc://127.0.0.1:1"]);
    let refused = install();
    assert!(refused.stderr.contains("is no workspace"), "{}", refused.stderr);
    std::fs::write(workspace.path().join("WORKSPACE"), "").unwrap();
    for _ in 0..2 {
        let finished = install();
        assert!(finished.status.success(), "{}", finished.stderr);
    }
    let wrapper = workspace.path().join("tools/bazel");
    std::fs::write(&wrapper, "#!/bin/sh\n").unwrap();
    let refused = install();
    assert!(refused.stderr.contains("was not written by this command"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(wrapper).unwrap(), "#!/bin/sh\n");
}
