//! A server's conversation with a worker, over channels.

use crate::{
    Job, Lab,
    life::{lives, until},
    run,
};
use mortar_model::{
    Digest, Kind, Outcome, Result,
    session::{ExecutionId, FromWorker, Log, LogPiece, LogRequest, Run, ToWorker, VERSION},
};
use mortar_worker::{SessionEnd, ShutdownHandle, serve, shutdown};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinHandle};

/// The server's end.
struct Server {
    to_worker: mpsc::Sender<ToWorker>,
    from_worker: mpsc::Receiver<FromWorker>,
    handle: ShutdownHandle,
    session: JoinHandle<SessionEnd>,
}

impl Server {
    async fn begin(lab: &Lab) -> Self {
        let (outgoing, from_worker) = mpsc::channel(1);
        let (to_worker, incoming) = mpsc::channel(1);
        let (handle, shutdown) = shutdown();
        let session = tokio::spawn(serve(lab.worker.clone(), outgoing, incoming, shutdown));
        let mut server = Self { to_worker, from_worker, handle, session };
        let Some(FromWorker::Hello(hello)) = server.from_worker.recv().await else { panic!("no hello") };
        assert_eq!((hello.version, hello.name.as_str(), hello.slots), (VERSION, "tester", 2));
        let heartbeat_interval = Duration::from_secs(3600);
        server.say(ToWorker::Welcome { version: VERSION, heartbeat_interval }).await;
        server
    }

    async fn say(&self, message: ToWorker) {
        self.to_worker.send(message).await.unwrap();
    }

    async fn run(&self, name: &str, action: Digest) {
        let run = Run { execution: ExecutionId(name.into()), ..run(action) };
        self.say(ToWorker::Run(Box::new(run))).await;
    }

    /// The next answer to a request for a log.
    async fn piece(&mut self) -> LogPiece {
        loop {
            if let FromWorker::Log(piece) = self.from_worker.recv().await.unwrap() {
                return piece;
            }
        }
    }

    /// The next end of an execution.
    async fn finished(&mut self) -> (String, Result<Outcome>) {
        loop {
            match self.from_worker.recv().await.unwrap() {
                FromWorker::Finished { execution, outcome } => return (execution.to_string(), *outcome),
                FromWorker::Progress { .. }
                | FromWorker::Heartbeat
                | FromWorker::Draining
                | FromWorker::Log(_) => {}
                FromWorker::Hello(_) => panic!("a second hello"),
            }
        }
    }
}

#[tokio::test]
async fn actions_run_and_report() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    let action = lab.action(&Job::new("echo hi")).await;
    server.run("1", action).await;
    let mut steps = 0;
    let outcome = loop {
        match server.from_worker.recv().await.unwrap() {
            FromWorker::Progress { execution, metadata } => {
                assert_eq!((&*execution.0, metadata.worker.as_str()), ("1", "tester"));
                steps += 1;
            }
            FromWorker::Finished { outcome, .. } => break outcome.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((steps, lab.text(outcome.result.stdout_digest).await.as_str()), (4, "hi\n"));
}

#[tokio::test]
async fn slots_are_used_at_the_same_time_and_not_more_of_them() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    let action = lab.action(&Job::new("sleep 51799")).await;
    for name in ["1", "2", "3"] {
        server.run(name, action).await;
    }
    let (name, outcome) = server.finished().await;
    let error = outcome.unwrap_err();
    assert_eq!(name, "3");
    assert!(
        matches!(error.kind(), Kind::Unavailable { .. }) && error.to_string().contains("2 slots"),
        "{error}"
    );
    for name in ["2", "1"] {
        server.say(ToWorker::Cancel(ExecutionId(name.into()))).await;
        let (cancelled, outcome) = server.finished().await;
        assert_eq!(cancelled, name);
        assert!(matches!(outcome.unwrap_err().kind(), Kind::Cancelled { .. }));
    }
    assert!(!lives("sleep 51799"));
    // The slot is free again.
    server.run("4", lab.action(&Job::new("true")).await).await;
    assert!(server.finished().await.1.is_ok());
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    server.run("1", lab.action(&Job::new("sleep 0.5; echo done")).await).await;
    while !matches!(server.from_worker.recv().await.unwrap(), FromWorker::Progress { .. }) {}
    server.handle.drain();
    while !matches!(server.from_worker.recv().await.unwrap(), FromWorker::Draining) {}
    server.run("2", lab.action(&Job::new("true")).await).await;
    let mut ends = [server.finished().await, server.finished().await];
    ends.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(ends[0].1.is_ok() && ends[1].1.is_err());
    assert_eq!(server.session.await.unwrap(), SessionEnd::Shutdown);
}

#[tokio::test]
async fn aborting_stops_what_runs() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    server.run("1", lab.action(&Job::new("sleep 52799")).await).await;
    until_lives(&mut server, "sleep 52799").await;
    server.handle.drain();
    server.handle.abort();
    assert!(matches!(server.finished().await.1.unwrap_err().kind(), Kind::Cancelled { .. }));
    assert_eq!(server.session.await.unwrap(), SessionEnd::Shutdown);
    assert!(!lives("sleep 52799") && lab.leftovers().is_empty());
}

/// Waits for a command to run, hearing the reports meanwhile.
async fn until_lives(server: &mut Server, mark: &str) {
    let hear = async { while server.from_worker.recv().await.is_some() {} };
    tokio::select! {
        () = hear => panic!("the session ended"),
        () = until(|| lives(mark)) => {}
    }
}

#[tokio::test]
async fn a_lost_server_ends_what_ran_for_it() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    server.run("1", lab.action(&Job::new("sleep 53799")).await).await;
    until_lives(&mut server, "sleep 53799").await;
    drop((server.to_worker, server.from_worker));
    assert_eq!(server.session.await.unwrap(), SessionEnd::Lost);
    assert!(!lives("sleep 53799") && lab.leftovers().is_empty());
}

#[tokio::test]
async fn a_session_that_is_dropped_leaves_nothing() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    server.run("1", lab.action(&Job::new("sleep 54799")).await).await;
    until_lives(&mut server, "sleep 54799").await;
    server.session.abort();
    until(|| !lives("sleep 54799") && lab.leftovers().is_empty()).await;
}

#[tokio::test]
async fn heartbeats_come_when_there_is_nothing_else_to_say() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    let heartbeat_interval = Duration::from_millis(40);
    server.say(ToWorker::Welcome { version: VERSION, heartbeat_interval }).await;
    for _ in 0..3 {
        assert!(matches!(server.from_worker.recv().await.unwrap(), FromWorker::Heartbeat));
    }
}

#[tokio::test]
async fn another_version_is_refused() {
    let lab = Lab::memory().await;
    let server = Server::begin(&lab).await;
    let heartbeat_interval = Duration::from_secs(1);
    server.say(ToWorker::Welcome { version: VERSION + 1, heartbeat_interval }).await;
    assert_eq!(server.session.await.unwrap(), SessionEnd::Incompatible);
}

#[tokio::test]
async fn what_runs_is_read_while_it_writes() {
    let lab = Lab::memory().await;
    let mut server = Server::begin(&lab).await;
    let script = "echo begun; echo woe >&2; sleep 55799";
    server.run("1", lab.action(&Job::new(script)).await).await;
    let mut asked = 0;
    let mut ask = |log, offset, limit| {
        asked += 1;
        LogRequest { request: asked, execution: ExecutionId("1".into()), log, offset, limit }
    };
    for (log, expected) in [(Log::Stdout, "begun\n"), (Log::Stderr, "woe\n")] {
        let piece = loop {
            let request = ask(log, 0, 1_000);
            server.say(ToWorker::ReadLog(request.clone())).await;
            let piece = server.piece().await;
            assert_eq!(piece.request, request.request);
            // Before it has a directory, there is nothing to tell of it.
            if !piece.over {
                break piece;
            }
        };
        assert_eq!(&piece.data[..], expected.as_bytes());
    }
    let waits = ask(Log::Stdout, 6, 1_000);
    server.say(ToWorker::ReadLog(waits.clone())).await;
    server.say(ToWorker::Cancel(ExecutionId("1".into()))).await;
    let piece = server.piece().await;
    assert_eq!((piece.request, piece.data.len(), piece.over), (waits.request, 0, true));
}
