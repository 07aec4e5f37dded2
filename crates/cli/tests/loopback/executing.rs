//! An execution from `Remote` through the service to an executor and back.

use mortar_model::{
    ActionResult, Context, Digest, DigestFunction, Error, ExecuteRequest, ExecutionMetadata, Executor,
    InstanceName, Kind, Outcome, OutputFile, Progress, RequestMetadata, Stage, SystemClock, Termination,
};
use mortar_remote::{Endpoint, Inline, Options, Remote, Retry};
use mortar_services::{
    Operations, Ports,
    listener::{self, Listener},
};
use mortar_store::{Completeness, DiskConfig, DiskStore, NamedValues, Results};
use mortar_wire::Protobuf;
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;

/// Does what the size of the action's digest says.
#[derive(Default)]
struct Scripted {
    asked: Mutex<Option<(Context, ExecuteRequest)>>,
    dropped: Arc<Notify>,
}

const SUCCEEDS: u64 = 1;
const TIMES_OUT: u64 = 2;
const LACKS_BLOBS: u64 = 3;
const NEVER_ENDS: u64 = 4;

fn action(does: u64) -> Digest {
    Digest::new(DigestFunction::Blake3, [9; 32], does)
}

fn outcome() -> Outcome {
    let file = OutputFile {
        path: "out/a".into(),
        digest: action(77),
        is_executable: true,
        contents: "inline".into(),
        properties: None,
    };
    let metadata = ExecutionMetadata {
        worker: "w1".into(),
        queued: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
        virtual_execution_duration: Some(Duration::from_secs(3)),
        ..Default::default()
    };
    Outcome {
        result: ActionResult {
            files: vec![file],
            exit_code: 1,
            stdout_raw: "out".into(),
            metadata,
            ..Default::default()
        },
        cached: false,
        termination: Termination::Exited,
        message: "look here".into(),
        server_logs: vec![],
    }
}

struct Notifies(Arc<Notify>);

impl Drop for Notifies {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tonic::async_trait]
impl Executor for Scripted {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> mortar_model::Result<Outcome> {
        let does = request.action_digest.size();
        *self.asked.lock().unwrap() = Some((context.clone(), request));
        let _notifies = Notifies(self.dropped.clone());
        progress.report(Stage::Executing, &ExecutionMetadata { worker: "w1".into(), ..Default::default() });
        match does {
            SUCCEEDS => Ok(outcome()),
            TIMES_OUT => Ok(Outcome {
                termination: Termination::TimedOut { limit: Duration::from_secs(3) },
                ..outcome()
            }),
            LACKS_BLOBS => Err(Error::new(Kind::MissingBlobs { missing: vec![action(5)] })),
            _ => std::future::pending().await,
        }
    }
}

/// A server in this process that has no scheduler: its executor, if any, is `executor`.
async fn start(executor: Option<Arc<dyn Executor>>, directory: &Path) -> String {
    let config = DiskConfig { directory: directory.join("data"), max_size: 1 << 30 };
    let store = DiskStore::open(config).unwrap();
    let results = Arc::new(Results::new(store.clone(), Arc::new(Protobuf)));
    let ports = Ports {
        blobs: store.clone(),
        actions: Arc::new(Completeness::new(results, store.clone(), Arc::new(Protobuf))),
        encoded: None,
        uploads: store.clone(),
        index: store.clone(),
        values: Arc::new(NamedValues::new(store, Arc::new(SystemClock))),
        chunks: None,
        executor: executor.clone(),
        lease: None,
        offers: None,
    };
    let router = mortar_services::router(&ports, executor.map(Operations::new), Default::default());
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = listener.url();
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    url
}

/// A server that caches and does not execute.
pub async fn cache_alone(directory: &Path) -> String {
    start(None, directory).await
}

async fn serve(executor: Arc<Scripted>, directory: &Path) -> Remote {
    let url = start(Some(executor), directory).await;
    Endpoint::connect(&url, Options { retry: Retry::NEVER, ..Options::default() }).unwrap()
}

#[derive(Default)]
struct Heard(Mutex<Vec<(Stage, String)>>);

impl Progress for Heard {
    fn report(&self, stage: Stage, metadata: &ExecutionMetadata) {
        self.0.lock().unwrap().push((stage, metadata.worker.clone()));
    }
}

fn request(does: u64) -> ExecuteRequest {
    ExecuteRequest { action_digest: action(does), skip_cache_lookup: true, priority: -7 }
}

#[tokio::test]
async fn outcomes_arrive_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let executor = Arc::new(Scripted::default());
    let remote = serve(executor.clone(), directory.path()).await;
    let metadata = RequestMetadata { action_mnemonic: "Genrule".into(), ..Default::default() };
    let context = Context { request: Arc::new(metadata.clone()), ..Context::internal() };
    let context = context.with_instance(InstanceName::parse("main/eu").unwrap());
    let heard = Heard::default();

    let inline = Inline { files: vec!["out/a".into()], ..Inline::default() };
    let ended = remote.execute_inline(&context, request(SUCCEEDS), &inline, &heard).await.unwrap();
    assert_eq!((ended.termination, ended.message), (Termination::Exited, "look here".into()));
    assert_eq!(ended.result, outcome().result);
    assert!(!ended.cached);
    let stages = heard.0.into_inner().unwrap();
    assert!(stages.iter().is_sorted() && stages.last().unwrap().0 == Stage::Completed, "{stages:?}");
    let (asked, asked_for) = executor.asked.lock().unwrap().take().unwrap();
    assert_eq!((asked.instance, &*asked.request), (context.instance.clone(), &metadata));
    assert_eq!(
        (asked_for.action_digest, asked_for.skip_cache_lookup, asked_for.priority),
        (action(SUCCEEDS), true, -7)
    );

    let timed_out = remote.execute(&context, request(TIMES_OUT), &()).await.unwrap();
    assert_eq!(timed_out.termination, Termination::TimedOut { limit: Duration::from_secs(3) });
    assert_eq!(timed_out.result.stdout_raw, "out");

    let missing = remote.execute(&context, request(LACKS_BLOBS), &()).await.unwrap_err();
    assert_eq!(missing.kind(), &Kind::MissingBlobs { missing: vec![action(5)] });
}

#[tokio::test]
async fn who_no_longer_waits_ends_the_execution() {
    let directory = tempfile::tempdir().unwrap();
    let executor = Arc::new(Scripted::default());
    let remote = serve(executor.clone(), directory.path()).await;
    let context = Context::internal();
    let started = Heard::default();
    let waiting = remote.execute(&context, request(NEVER_ENDS), &started);
    let began = async {
        while !started.0.lock().unwrap().iter().any(|(stage, _)| *stage == Stage::Executing) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = waiting => panic!("it ended: {ended:?}"),
        () = began => {}
    }
    let dropped = tokio::time::timeout(Duration::from_secs(30), executor.dropped.notified()).await;
    assert!(dropped.is_ok(), "the execution goes on though nobody waits");
}
