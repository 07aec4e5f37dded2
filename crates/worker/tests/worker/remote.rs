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
