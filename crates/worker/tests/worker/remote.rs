//! The same conversation over gRPC: a worker that dials, and dials again.

use crate::{Job, Lab, life::until, run};
use mortar_model::{
    DigestFunction, Outcome,
    session::{FromWorker, ToWorker, VERSION},
};
use mortar_wire::{
    session as convert,
    worker::{
        self as wire,
        worker_session_server::{WorkerSession, WorkerSessionServer},
    },
};
use mortar_worker::{connect, shutdown};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream, transport::Server};

/// A server that gives each worker one action, and keeps what becomes of it.
#[derive(Clone)]
struct Scripted {
    run: mortar_model::session::Run,
    finished: mpsc::Sender<Outcome>,
    /// Ends the streams.
    stop: CancellationToken,
}

#[tonic::async_trait]
impl WorkerSession for Scripted {
    async fn session(
        &self,
        request: Request<Streaming<wire::FromWorker>>,
    ) -> Result<Response<BoxStream<wire::ToWorker>>, Status> {
        let (sender, receiver) = mpsc::channel(8);
        let (scripted, stop) = (self.clone(), self.stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(scripted.converse(request.into_inner(), sender)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Scripted {
    async fn converse(
        self,
        mut incoming: Streaming<wire::FromWorker>,
        outgoing: mpsc::Sender<Result<wire::ToWorker, Status>>,
    ) {
        let say =
            async |message: ToWorker| outgoing.send(Ok(convert::to_worker_to_wire(&message))).await.unwrap();
        while let Ok(Some(message)) = incoming.message().await {
            match convert::from_worker_from_wire(message, |_| DigestFunction::Sha256).unwrap() {
                FromWorker::Hello(hello) => {
                    assert_eq!(hello.name, "tester");
                    let heartbeat_interval = Duration::from_secs(5);
                    say(ToWorker::Welcome { version: VERSION, heartbeat_interval }).await;
                    say(ToWorker::Run(Box::new(self.run.clone()))).await;
                }
                FromWorker::Finished { outcome, .. } => self.finished.send(outcome.unwrap()).await.unwrap(),
                _ => {}
            }
        }
    }
}

struct Running {
    stop: CancellationToken,
    finished: mpsc::Receiver<Outcome>,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

enum At {
    Tcp(TcpListener),
    Unix(UnixListener),
}

async fn start(lab: &Lab, at: At) -> Running {
    let action = lab.action(&Job::new("echo far away")).await;
    let (finished, results) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let scripted = Scripted { run: run(action), finished, stop: stop.clone() };
    let router = Server::builder().add_service(WorkerSessionServer::new(scripted));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let serving = async {
            match at {
                At::Tcp(listener) => {
                    router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap()
                }
                At::Unix(listener) => {
                    router.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap()
                }
            }
        };
        stopped.run_until_cancelled(serving).await;
    });
    Running { stop, finished: results, task }
}

async fn works(lab: &Lab, server: &mut Running) {
    let patience = Duration::from_secs(20);
    let outcome = tokio::time::timeout(patience, server.finished.recv()).await.unwrap().unwrap();
    assert_eq!(lab.text(outcome.result.stdout_digest).await, "far away\n");
    assert_eq!(outcome.result.metadata.worker, "tester");
}

#[tokio::test]
async fn a_worker_serves_over_tcp_and_finds_a_restarted_server() {
    let lab = Lab::memory().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (handle, shutdown) = shutdown();
    let worker = lab.worker.clone();
    let connected =
        tokio::spawn(async move { connect(worker, &format!("grpc://{address}"), shutdown).await });

    let mut server = start(&lab, At::Tcp(listener)).await;
    works(&lab, &mut server).await;
    server.stop().await;

    let again = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut server = start(&lab, At::Tcp(again)).await;
    works(&lab, &mut server).await;
    handle.drain();
    connected.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_worker_serves_over_a_unix_socket_that_comes_later() {
    let lab = Lab::memory().await;
    let path: PathBuf = lab.directory.path().join("socket");
    let (handle, shutdown) = shutdown();
    let (worker, address) = (lab.worker.clone(), format!("unix:{}", path.display()));
    let connected = tokio::spawn(async move { connect(worker, &address, shutdown).await });
    let mut server = start(&lab, At::Unix(UnixListener::bind(&path).unwrap())).await;
    works(&lab, &mut server).await;
    handle.drain();
    connected.await.unwrap().unwrap();
    server.stop().await;
    until(|| lab.leftovers().is_empty()).await;
}

/// A server that takes no worker.
struct Refusing;

#[tonic::async_trait]
impl WorkerSession for Refusing {
    async fn session(
        &self,
        _: Request<Streaming<wire::FromWorker>>,
    ) -> Result<Response<BoxStream<wire::ToWorker>>, Status> {
        Err(Status::failed_precondition("this server speaks version 7"))
    }
}

#[tokio::test]
async fn a_worker_that_is_refused_for_good_says_why_and_ends() {
    let lab = Lab::memory().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("grpc://{}", listener.local_addr().unwrap());
    let router = Server::builder().add_service(WorkerSessionServer::new(Refusing));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let (_handle, shutdown) = shutdown();
    let dialling = connect(lab.worker.clone(), &address, shutdown);
    let error = tokio::time::timeout(Duration::from_secs(20), dialling).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("speaks version 7"), "{error}");
}

/// A server of the release before: it refuses what it does not know, and confirms nothing.
#[derive(Clone)]
struct Old {
    run: mortar_model::session::Run,
    finished: mpsc::Sender<Outcome>,
    offered: mpsc::Sender<u32>,
}

#[tonic::async_trait]
impl WorkerSession for Old {
    async fn session(
        &self,
        request: Request<Streaming<wire::FromWorker>>,
    ) -> Result<Response<BoxStream<wire::ToWorker>>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.unwrap();
        let Ok(FromWorker::Hello(hello)) = convert::from_worker_from_wire(first, |_| DigestFunction::Sha256)
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        self.offered.send(hello.version).await.unwrap();
        if hello.version != 1 {
            return Err(Status::failed_precondition("this server speaks version 1"));
        }
        let heartbeat_interval = Duration::from_secs(5);
        let welcome = ToWorker::Welcome { version: 1, heartbeat_interval };
        let said = [welcome, ToWorker::Run(Box::new(self.run.clone()))];
        let said = said.map(|message| Ok(convert::to_worker_to_wire(&message)));
        let finished = self.finished.clone();
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            for message in said {
                sender.send(message).await.unwrap();
            }
            while let Ok(Some(message)) = incoming.message().await {
                let heard = convert::from_worker_from_wire(message, |_| DigestFunction::Sha256).unwrap();
                if let FromWorker::Finished { outcome, .. } = heard {
                    finished.send(outcome.unwrap()).await.unwrap();
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tokio::test]
async fn an_older_server_is_spoken_to_in_its_own_words() {
    let lab = Lab::memory().await;
    let action = lab.action(&Job::new("echo far away")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("grpc://{}", listener.local_addr().unwrap());
    let (finished, mut results) = mpsc::channel(8);
    let (offered, mut offers) = mpsc::channel(8);
    let old = Old { run: run(action), finished, offered };
    let router = Server::builder().add_service(WorkerSessionServer::new(old));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let (handle, shutdown) = shutdown();
    let worker = lab.worker.clone();
    let connected = tokio::spawn(async move { connect(worker, &address, shutdown).await });
    let patience = Duration::from_secs(20);
    let outcome = tokio::time::timeout(patience, results.recv()).await.unwrap().unwrap();
    assert_eq!(lab.text(outcome.result.stdout_digest).await, "far away\n");
    for version in (1..=VERSION).rev() {
        assert_eq!(offers.recv().await, Some(version));
    }
    handle.drain();
    drop(connected);
}

/// What goes on while there is no server, and what was not confirmed, is brought along into the next session.
#[tokio::test]
async fn what_is_held_is_told_in_the_next_session() {
    let lab = Lab::memory().await;
    let action = lab.action(&Job::new("sleep 1; echo far away")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("grpc://{}", listener.local_addr().unwrap());
    let (greetings, mut heard) = mpsc::channel(8);
    let breaking = Breaking { run: run(action), heard: greetings };
    let router = Server::builder().add_service(WorkerSessionServer::new(breaking));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let (handle, shutdown) = shutdown();
    let worker = lab.worker.clone();
    let connected = tokio::spawn(async move { connect(worker, &address, shutdown).await });
    let mut sessions = Vec::new();
    while sessions.last() != Some(&(1, true)) {
        let session = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap().unwrap();
        sessions.push(session);
    }
    assert_eq!(sessions[0], (0, false));
    assert!(sessions[1..].iter().all(|(held, _)| *held == 1), "{sessions:?}");
    handle.drain();
    drop(connected);
}

/// A server that gives its first worker one action and breaks each session: the first once the action was given, the
/// others at the first word after the greeting. Tells how much each greeting held, and whether an end followed.
#[derive(Clone)]
struct Breaking {
    run: mortar_model::session::Run,
    heard: mpsc::Sender<(usize, bool)>,
}

#[tonic::async_trait]
impl WorkerSession for Breaking {
    async fn session(
        &self,
        request: Request<Streaming<wire::FromWorker>>,
    ) -> Result<Response<BoxStream<wire::ToWorker>>, Status> {
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(8);
        let Self { run, heard } = self.clone();
        tokio::spawn(async move {
            let mut hear = async || {
                let message = incoming.message().await.ok()??;
                convert::from_worker_from_wire(message, |_| DigestFunction::Sha256).ok()
            };
            let Some(FromWorker::Hello(hello)) = hear().await else { return };
            let heartbeat_interval = Duration::from_millis(100);
            let mut said = vec![ToWorker::Welcome { version: VERSION, heartbeat_interval }];
            if hello.held.is_empty() {
                said.push(ToWorker::Run(Box::new(run)));
            }
            for message in said {
                sender.send(Ok(convert::to_worker_to_wire(&message))).await.unwrap();
            }
            let next = hear().await;
            let ended = matches!(next, Some(FromWorker::Finished { outcome, .. }) if outcome.is_ok());
            heard.send((hello.held.len(), ended)).await.ok();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
