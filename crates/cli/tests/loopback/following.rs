//! Inputs that follow the call: a client of ours, a server of ours, a worker that is content when all inputs are there,
//! and a link between them on which every call takes 100 ms.

use crate::serve_with;
use bytes::Bytes;
use mortar_model::{
    Action, ActionCache, ActionKey, ActionResult, Blob, BlobStore, BlobStoreExt, ChunkMapping, Chunks,
    Context, Digest,
    DigestFunction::Sha256,
    DigestSet, Directory, DirectoryNode, ExecuteRequest, ExecutionMetadata, Executor, FileNode, InputsFollow,
    Kind, Outcome, Progress, Stage, Termination,
    session::{FromWorker, Hello, Run, ToWorker, VERSION},
};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_server::Server;
use mortar_testkit::http;
use mortar_wire::{encode_action, encode_command, encode_directory};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// A server with a worker of one slot.
struct House {
    server: Arc<Server>,
    address: String,
    /// The actions that were run.
    ran: Arc<Mutex<Vec<Digest>>>,
    /// Whoever holds it stops the worker.
    rest: Arc<tokio::sync::Mutex<()>>,
    _directory: TempDir,
}

impl House {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (server, url) = serve_with("127.0.0.1:0", directory.path()).await;
        let (ran, rest) = (Arc::new(Mutex::new(Vec::new())), Arc::default());
        tokio::spawn(work(server.clone(), ran.clone(), Arc::clone(&rest)));
        Self { server, address: url.replace("grpc://", ""), ran, rest, _directory: directory }
    }

    fn client(&self) -> Remote {
        client(&self.address, Options::default())
    }

    /// How many executions wait for inputs, as the server tells everybody.
    fn waiting(&self) -> u64 {
        let page = String::from_utf8(http::get(&self.address, "/metrics").unwrap().body).unwrap();
        let line = page.lines().find(|line| line.starts_with("mortar_actions_awaiting_inputs ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn until_waiting(&self, expected: u64) {
        until("the number of executions that wait", || self.waiting() == expected).await;
    }

    fn ran(&self) -> usize {
        self.ran.lock().unwrap().len()
    }
}

fn client(address: &str, options: Options) -> Remote {
    let options = Options { retry: Retry::NEVER, ..options };
    Endpoint::connect(&format!("grpc://{address}"), options).unwrap()
}

/// Runs actions as a worker in the same process does, but that it only reads their inputs.
async fn work(server: Arc<Server>, ran: Arc<Mutex<Vec<Digest>>>, rest: Arc<tokio::sync::Mutex<()>>) {
    let hello = Hello { version: VERSION, name: "reader".into(), slots: 1, ..Hello::default() };
    let mut link = server.scheduler.attach(hello).await.unwrap();
    while let Some(command) = link.commands.recv().await {
        let ToWorker::Run(run) = command else { continue };
        let Run { execution, context, action_digest, .. } = *run;
        let _works = rest.lock().await;
        let result = read_inputs(&server, &context, action_digest).await;
        let key = ActionKey::from(action_digest);
        server.actions.put(&context, key, result.clone()).await.unwrap();
        ran.lock().unwrap().push(action_digest);
        let outcome = Outcome {
            result,
            cached: false,
            termination: Termination::Exited,
            message: String::new(),
            server_logs: Vec::new(),
        };
        let outcome = Box::new(Ok(outcome));
        link.reports.send(FromWorker::Finished { execution, outcome }).await.unwrap();
    }
}

async fn read_inputs(server: &Server, context: &Context, action: Digest) -> ActionResult {
    let read = async |digest| server.blobs.read_all(context, digest, 1 << 30).await.expect("it is there");
    let action = mortar_wire::decode_action(Sha256, read(action).await).unwrap();
    read(action.command_digest).await;
    let mut pending = vec![action.input_root_digest];
    let mut output = Vec::new();
    while let Some(digest) = pending.pop() {
        let directory = mortar_wire::decode_directory(Sha256, read(digest).await).unwrap();
        for file in &directory.files {
            output.extend_from_slice(&read(file.digest).await);
        }
        pending.extend(directory.directories.iter().map(|node| node.digest));
    }
    let stdout = Bytes::from(format!("read {} bytes", output.len()));
    let digest = Digest::of(Sha256, &stdout);
    server.blobs.write_bytes(context, digest, stdout).await.unwrap();
    ActionResult { stdout_digest: Some(digest), ..ActionResult::default() }
}

/// An action and all that it needs: a file in the root, one in a directory.
struct Job {
    action: Digest,
    blobs: Vec<(Digest, Bytes)>,
}

const FILE: usize = 0;

impl Job {
    fn new(name: &str) -> Self {
        Self::with_file(name, Bytes::from(format!("a file of {name}")))
    }

    fn with_file(name: &str, file: Bytes) -> Self {
        let deep = Bytes::from(format!("a deep file of {name}"));
        let node = |name: &str, bytes: &Bytes| FileNode {
            name: name.into(),
            digest: digest(bytes),
            is_executable: false,
            properties: None,
        };
        let below = encode_directory(&Directory { files: vec![node("deep", &deep)], ..Directory::default() });
        let root = encode_directory(&Directory {
            files: vec![node("file", &file)],
            directories: vec![DirectoryNode { name: "below".into(), digest: digest(&below) }],
            ..Directory::default()
        });
        let arguments = vec!["any".into(), name.into()];
        let command = encode_command(&mortar_model::Command { arguments, ..Default::default() });
        let action = encode_action(&Action {
            command_digest: digest(&command),
            input_root_digest: digest(&root),
            timeout: None,
            do_not_cache: false,
            platform: None,
        });
        let blobs = [file, deep, below, root, command, action.clone()];
        Self { action: digest(&action), blobs: blobs.map(|bytes| (digest(&bytes), bytes)).to_vec() }
    }

    fn request(&self) -> ExecuteRequest {
        ExecuteRequest { action_digest: self.action, skip_cache_lookup: false, priority: 0 }
    }

    fn digests(&self) -> DigestSet {
        self.blobs.iter().map(|(digest, _)| *digest).collect()
    }

    /// All but the file, in one call.
    async fn bring_all_but_the_file(&self, remote: &Remote) {
        bring(remote, &self.blobs[FILE + 1..]).await;
    }
}

async fn bring(remote: &Remote, blobs: &[(Digest, Bytes)]) {
    let answers = remote.write_batch(&Context::internal(), blobs).await.unwrap();
    answers.into_iter().for_each(Result::unwrap);
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Sha256, bytes)
}

fn following(patience: Duration) -> Context {
    let follow = InputsFollow::new("test-session", patience).unwrap();
    Context { inputs_follow: Some(follow), ..Context::internal() }
}

type Asked = JoinHandle<mortar_model::Result<Outcome>>;

/// Executes in the background, with inputs that follow.
fn begin(remote: &Remote, job: &Job) -> Asked {
    let (remote, request) = (remote.clone(), job.request());
    tokio::spawn(async move { remote.execute(&following(LONG), request, &()).await })
}

const LONG: Duration = Duration::from_secs(120);

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How a blob comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Batch,
    ZstdBatch,
    Stream,
    ZstdStream,
    Http,
    Chunks,
    WorkerHere,
}

async fn bring_by(way: Way, house: &House, digest: Digest, bytes: Bytes) {
    let context = Context::internal();
    let compression = matches!(way, Way::ZstdBatch | Way::ZstdStream);
    let small_blob = if matches!(way, Way::Batch | Way::ZstdBatch) { 1 << 20 } else { 0 };
    let remote = client(&house.address, Options { compression, small_blob, ..Options::default() });
    match way {
        Way::Batch | Way::ZstdBatch | Way::Stream | Way::ZstdStream => {
            remote.write(&context, digest, Blob::bytes(bytes)).await.unwrap();
        }
        Way::Http => {
            let (address, path) = (house.address.clone(), format!("/cas/{}", digest.hex()));
            let put = tokio::task::spawn_blocking(move || http::put(&address, &path, &bytes).unwrap());
            assert_eq!(put.await.unwrap().status / 100, 2);
        }
        Way::Chunks => {
            let halves = [bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..)];
            let halves = halves.map(|half| (Digest::of(Sha256, &half), half));
            bring(&remote, &halves).await;
            let chunks = remote.chunks(&context).await.unwrap().unwrap();
            let chunks_of = halves.iter().map(|(digest, _)| *digest).collect();
            let mapping = ChunkMapping { function: None, chunks: chunks_of };
            chunks.splice(&context, digest, mapping).await.unwrap();
        }
        Way::WorkerHere => house.server.blobs.write_bytes(&context, digest, bytes).await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_blob_comes_who_waits_for_it_is_told() {
    use Way::{Batch, Chunks, Http, Stream, WorkerHere, ZstdBatch, ZstdStream};
    let house = House::new().await;
    for (number, way) in
        [Batch, ZstdBatch, Stream, ZstdStream, Http, Chunks, WorkerHere].into_iter().enumerate()
    {
        for length in [3_000, 300_000] {
            let text: String = (0..length).map(|n: u64| char::from(b'a' + (n * n / 7 % 26) as u8)).collect();
            let job = Job::with_file(&format!("{way:?}{length}"), Bytes::from(format!("{way:?} {text}")));
            let remote = house.client();
            let execution = begin(&remote, &job);
            house.until_waiting(1).await;
            job.bring_all_but_the_file(&remote).await;
            let (digest, bytes) = job.blobs[FILE].clone();
            bring_by(way, &house, digest, bytes).await;
            // Not told, it would find the blob when the patience of its client has ended.
            let outcome = tokio::time::timeout(LONG / 4, execution).await;
            let outcome = outcome.unwrap_or_else(|_| panic!("{way:?}: was not told")).unwrap().unwrap();
            assert_eq!(outcome.result.exit_code, 0);
            house.until_waiting(0).await;
        }
        assert_eq!(house.ran(), 2 * (number + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_its_waiting_and_no_other() {
    let house = House::new().await;
    let job = Job::new("two clients");
    let (goes, stays) = (house.client(), house.client());
    let (gone, stayed) = (begin(&goes, &job), begin(&stays, &job));
    house.until_waiting(2).await;
    gone.abort();
    house.until_waiting(1).await;
    bring(&stays, &job.blobs).await;
    stayed.await.unwrap().unwrap();
    house.until_waiting(0).await;
    assert_eq!(house.ran(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_inputs_holds_no_slot() {
    let house = House::new().await;
    let (remote, waits, goes_on) = (house.client(), Job::new("waits"), Job::new("goes on"));
    let waiting = begin(&remote, &waits);
    house.until_waiting(1).await;
    assert_eq!(house.server.scheduler.status().await.queued, 0);
    bring(&remote, &goes_on.blobs).await;
    remote.execute(&Context::internal(), goes_on.request(), &()).await.unwrap();
    assert_eq!(house.ran.lock().unwrap()[..], [goes_on.action]);
    bring(&remote, &waits.blobs).await;
    waiting.await.unwrap().unwrap();
}

/// The same action by clients that all send its inputs: it is run once.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_same_shares_an_execution() {
    let house = House::new().await;
    let (job, resting) = (Job::new("shared"), house.rest.lock().await);
    let remotes: Vec<_> = (0..8).map(|_| house.client()).collect();
    let executions: Vec<_> = remotes.iter().map(|remote| begin(remote, &job)).collect();
    house.until_waiting(8).await;
    bring(&remotes[0], &job.blobs).await;
    let deadline = Instant::now() + LONG;
    while house.server.scheduler.status().await.counters.merged < 7 {
        assert!(Instant::now() < deadline, "waited too long for all to be queued");
        tokio::task::yield_now().await;
    }
    drop(resting);
    for execution in executions {
        execution.await.unwrap().unwrap();
    }
    assert_eq!(house.ran(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_lets_who_waits_go() {
    let house = House::new().await;
    let (remote, job) = (house.client(), Job::new("too late"));
    let execution = begin(&remote, &job);
    house.until_waiting(1).await;
    house.server.shutdown(Duration::ZERO).await;
    let error = execution.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    house.until_waiting(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_is_told_exactly() {
    let house = House::new().await;
    let (remote, job) = (house.client(), Job::new("incomplete"));
    job.bring_all_but_the_file(&remote).await;
    let context = following(Duration::from_millis(20));
    let error = remote.execute(&context, job.request(), &()).await.unwrap_err();
    assert_eq!(error.kind(), &Kind::MissingBlobs { missing: vec![job.blobs[FILE].0] });
    assert_eq!((house.ran(), house.waiting()), (0, 0));
}

/// Calls as they begin and end at the client. A call that begins after another has ended may depend on it: it is one
/// stage further.
#[derive(Default)]
struct Stages(Mutex<u32>);

impl Stages {
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let stage = *self.0.lock().unwrap() + 1;
        let answer = call.await;
        let mut ended = self.0.lock().unwrap();
        *ended = stage.max(*ended);
        answer
    }

    fn taken(&self) -> u32 {
        *self.0.lock().unwrap()
    }
}

/// A link: what is sent arrives 50 ms later, both ways.
async fn delayed(address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&address).await.unwrap();
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(pass_on(near_read, far_write));
            tokio::spawn(pass_on(far_read, near_write));
        }
    });
    here
}

const DELAY: Duration = Duration::from_millis(50);

async fn pass_on(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Send + Unpin + 'static) {
    let (send, mut receive) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = receive.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if send.send((tokio::time::Instant::now() + DELAY, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

/// How a client goes about one action.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// As the protocol foresees it: asks for the result, then what is missing, uploads, executes, reads.
    Customary,
    /// Asks what is missing, uploads, and leaves the rest to Execute.
    UploadFirst,
    /// Knows what the server has, and sends it along.
    Follow,
    /// Does not know, and finds out meanwhile.
    FollowAndAsk,
}

/// Executes in this manner; the stages that it took.
async fn stages(remote: &Remote, job: &Job, manner: Manner) -> u32 {
    let (stages, context) = (Stages::default(), Context::internal());
    let execute = |context| stages.call(async move { remote.execute(&context, job.request(), &()).await });
    let missing = || async {
        let missing = stages.call(remote.find_missing(&context, &job.digests())).await.unwrap();
        let blobs = job.blobs.iter().filter(|(digest, _)| missing.contains(digest));
        blobs.cloned().collect::<Vec<_>>()
    };
    let outcome = match manner {
        Manner::Customary => {
            let known = stages.call(remote.get(&context, ActionKey::from(job.action))).await.unwrap();
            if known.is_some() {
                return stages.taken();
            }
            stages.call(bring(remote, &missing().await)).await;
            execute(context.clone()).await
        }
        Manner::UploadFirst => {
            let blobs = missing().await;
            if !blobs.is_empty() {
                stages.call(bring(remote, &blobs)).await;
            }
            execute(context.clone()).await
        }
        Manner::Follow => tokio::join!(execute(following(LONG)), stages.call(bring(remote, &job.blobs))).0,
        Manner::FollowAndAsk => {
            let send = async { stages.call(bring(remote, &missing().await)).await };
            tokio::join!(execute(following(LONG)), send).0
        }
    };
    let stdout = outcome.unwrap().result.stdout_raw;
    assert!(stdout.starts_with(b"read "), "the log comes with the answer: {stdout:?}");
    stages.taken()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_takes_one_stage_where_inputs_follow() {
    let house = House::new().await;
    // One connection, which is there before anything is counted.
    let options = Options { connections: 1, ..Options::default() };
    let remote = client(&delayed(house.address.clone()).await, options);
    assert!(remote.takes_inputs_later(&Context::internal()).await.unwrap());
    let expected = [
        (Manner::Customary, 4, 1),
        (Manner::UploadFirst, 3, 2),
        (Manner::FollowAndAsk, 2, 1),
        (Manner::Follow, 1, 1),
    ];
    for (manner, miss, _) in expected {
        let job = Job::new(&format!("{manner:?}"));
        let begun = Instant::now();
        assert_eq!(stages(&remote, &job, manner).await, miss, "a miss, {manner:?}");
        println!("{manner:?}: a miss takes {miss} stages, {} ms", begun.elapsed().as_millis());
    }
    assert_eq!(house.ran(), 4);
    for (manner, _, hit) in expected {
        let job = Job::new(&format!("{manner:?}"));
        let begun = Instant::now();
        let took = match manner {
            // Who hopes for a hit sends nothing along before it knows better.
            Manner::Follow | Manner::FollowAndAsk => {
                let (stages, context) = (Stages::default(), Context::internal());
                let execution = remote.execute(&context, job.request(), &());
                assert!(stages.call(execution).await.unwrap().cached);
                stages.taken()
            }
            _ => stages(&remote, &job, manner).await,
        };
        assert_eq!(took, hit, "a hit, {manner:?}");
        println!("{manner:?}: a hit takes {hit} stages, {} ms", begun.elapsed().as_millis());
    }
    assert_eq!(house.ran(), 4);
}

/// Where a result is known, no input is needed, nor waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_hit_needs_no_inputs() {
    let house = House::new().await;
    let (remote, job) = (house.client(), Job::new("known"));
    let stdout = Bytes::from("as before");
    bring(&remote, &[(digest(&stdout), stdout.clone())]).await;
    let result = ActionResult { stdout_digest: Some(digest(&stdout)), ..ActionResult::default() };
    remote.put(&Context::internal(), ActionKey::from(job.action), result).await.unwrap();
    let outcome = remote.execute(&following(LONG), job.request(), &()).await.unwrap();
    assert!(outcome.cached && outcome.result.stdout_raw == stdout);
    assert_eq!((house.ran(), house.waiting()), (0, 0));
}

/// The server tells a client that waits which operation it is, so that it can come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_taken_up_while_inputs_come() {
    struct Heard(Arc<Mutex<Vec<Stage>>>);
    impl Progress for Heard {
        fn report(&self, stage: Stage, _: &ExecutionMetadata) {
            self.0.lock().unwrap().push(stage);
        }
    }
    let house = House::new().await;
    let link = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = link.local_addr().unwrap().to_string();
    let (address, cut) = (house.address.clone(), Arc::new(tokio::sync::Notify::new()));
    let cutting = cut.clone();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut near, _)) = link.accept().await {
            let mut far = TcpStream::connect(&address).await.unwrap();
            let (cutting, may_be_cut) = (cutting.clone(), std::mem::take(&mut first));
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = cutting.notified(), if may_be_cut => {}
                }
            });
        }
    });
    let options = Options { connections: 1, ..Options::default() };
    let remote = Endpoint::connect(&format!("grpc://{here}"), options).unwrap();
    let (job, stages) = (Job::new("cut"), Arc::new(Mutex::new(Vec::new())));
    let (asking, request, heard) = (remote.clone(), job.request(), Heard(stages.clone()));
    let execution = tokio::spawn(async move { asking.execute(&following(LONG), request, &heard).await });
    until("the first word", || !stages.lock().unwrap().is_empty()).await;
    house.until_waiting(1).await;
    cut.notify_one();
    let direct = house.client();
    bring(&direct, &job.blobs).await;
    execution.await.unwrap().unwrap();
    assert_eq!(house.ran(), 1);
    house.until_waiting(0).await;
}
