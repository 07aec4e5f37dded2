//! What is put into results: by Execute, WaitExecution and GetActionResult alike.

use crate::{
    executions::{execute, last, response},
    support::{Server, digest, server},
};
use mortar_model::{ActionResult, Digest, OutputFile};
use mortar_wire::{
    digest_to_wire, reapi,
    reapi::{action_cache_client::ActionCacheClient, execution_client::ExecutionClient},
    result_to_wire,
};

const KI: usize = 1 << 10;
const MI: usize = 1 << 20;

/// What the client asks for.
#[derive(Clone, Copy, Debug, Default)]
struct Asks {
    stdout: bool,
    stderr: bool,
    files: &'static [&'static str],
}

/// Lengths of stdout, stderr and the file `a`; what is asked for; the lengths of what comes in the result.
type Case = ((usize, usize, usize), Asks, (usize, usize, usize));

const NOTHING: Asks = Asks { stdout: false, stderr: false, files: &[] };
const LOGS: Asks = Asks { stdout: true, stderr: true, files: &[] };
const FILE: Asks = Asks { stdout: false, stderr: false, files: &["a"] };
const ALL: Asks = Asks { stdout: true, stderr: true, files: &["b", "a"] };
const STDERR: Asks = Asks { stdout: false, stderr: true, files: &[] };

const CASES: [Case; 15] = [
    ((0, 0, 0), ALL, (0, 0, 0)),
    ((5, 6, 7), NOTHING, (5, 6, 0)),
    ((16 * KI, 16 * KI, 7), NOTHING, (16 * KI, 16 * KI, 0)),
    ((16 * KI + 1, 6, 7), NOTHING, (0, 6, 0)),
    ((5, 16 * KI + 1, 7), NOTHING, (5, 0, 0)),
    ((100 * KI, 100 * KI, 7), LOGS, (100 * KI, 100 * KI, 0)),
    ((100 * KI, 100 * KI, 7), STDERR, (0, 100 * KI, 0)),
    ((5, 6, 7), FILE, (5, 6, 7)),
    ((5, 6, 300 * KI), ALL, (5, 6, 300 * KI)),
    ((MI, 0, 0), LOGS, (MI, 0, 0)),
    ((MI + 1, 1, 0), LOGS, (0, 1, 0)),
    ((600 * KI, 600 * KI, 0), LOGS, (600 * KI, 0, 0)),
    ((600 * KI, 300 * KI, 200 * KI), ALL, (600 * KI, 300 * KI, 0)),
    // What was asked for comes before what was not.
    ((5, 6, MI), FILE, (0, 0, MI)),
    ((5, 6, MI + 1), FILE, (5, 6, 0)),
];

/// Content of this length, in the store.
async fn keep(server: &Server, length: usize, byte: u8) -> Digest {
    server.keep(vec![byte; length]).await
}

async fn result(server: &Server, (stdout, stderr, file): (usize, usize, usize)) -> ActionResult {
    let file = OutputFile {
        path: "a".into(),
        digest: keep(server, file, b'f').await,
        is_executable: false,
        contents: Default::default(),
        properties: None,
    };
    let (stdout, stderr) = (keep(server, stdout, b'o').await, keep(server, stderr, b'e').await);
    ActionResult {
        files: vec![file],
        stdout_digest: Some(stdout),
        stderr_digest: Some(stderr),
        ..Default::default()
    }
}

fn files(asks: Asks) -> Vec<String> {
    asks.files.iter().map(|file| (*file).to_owned()).collect()
}

/// As Execute brings it, and as WaitExecution does.
async fn executed(server: &Server, asks: Asks) -> [reapi::ActionResult; 2] {
    let request = reapi::ExecuteRequest {
        inline_stdout: asks.stdout,
        inline_stderr: asks.stderr,
        inline_output_files: files(asks),
        ..Default::default()
    };
    let stream = execute(server, request).await;
    server.executor.finish.notify_one();
    let end = last(stream).await;
    let mut client = ExecutionClient::new(server.channel.clone());
    let request = reapi::WaitExecutionRequest { name: end.name.clone() };
    let again = last(client.wait_execution(request).await.unwrap().into_inner()).await;
    [end, again].map(|operation| response(&operation).result.unwrap())
}

async fn looked_up(server: &Server, asks: Asks) -> reapi::ActionResult {
    let request = reapi::GetActionResultRequest {
        action_digest: Some(digest_to_wire(digest(b"action"))),
        inline_stdout: asks.stdout,
        inline_stderr: asks.stderr,
        inline_output_files: files(asks),
        ..Default::default()
    };
    ActionCacheClient::new(server.channel.clone()).get_action_result(request).await.unwrap().into_inner()
}

async fn record(server: &Server, result: &ActionResult) {
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(digest_to_wire(digest(b"action"))),
        action_result: Some(result_to_wire(result)),
        ..Default::default()
    };
    ActionCacheClient::new(server.channel.clone()).update_action_result(request).await.unwrap();
}

#[tokio::test]
async fn short_logs_come_by_themselves_and_all_else_where_asked_for() {
    let server = server().await;
    for (lengths, asks, expected) in CASES {
        let made = result(&server, lengths).await;
        *server.executor.result.lock() = made.clone();
        record(&server, &made).await;
        let [by_execute, by_wait] = executed(&server, asks).await;
        for (how, told) in
            [("Execute", by_execute), ("WaitExecution", by_wait), ("look-up", looked_up(&server, asks).await)]
        {
            let file = &told.output_files[0];
            let came = (told.stdout_raw.len(), told.stderr_raw.len(), file.contents.len());
            assert_eq!(came, expected, "{how}: {lengths:?}, {asks:?}");
            assert!(told.stdout_raw.iter().all(|byte| *byte == b'o'));
            assert!(told.stderr_raw.iter().all(|byte| *byte == b'e'));
            // The digests are there all the same.
            let digests = (told.stdout_digest, told.stderr_digest, file.digest.clone());
            let made = result_to_wire(&made);
            assert_eq!(
                digests,
                (made.stdout_digest, made.stderr_digest, made.output_files[0].digest.clone())
            );
        }
    }
}

#[tokio::test]
async fn what_others_put_into_a_result_goes_unless_it_is_asked_for() {
    let server = server().await;
    let mut made = result(&server, (100 * KI, 5, 7)).await;
    made.files[0].contents = "fffffff".into();
    (made.stdout_raw, made.stderr_raw) = (vec![b'o'; 100 * KI].into(), "eeeee".into());
    record(&server, &made).await;
    for (asks, expected) in [(NOTHING, (0, 5, 0)), (ALL, (100 * KI, 5, 7))] {
        let told = looked_up(&server, asks).await;
        let came = (told.stdout_raw.len(), told.stderr_raw.len(), told.output_files[0].contents.len());
        assert_eq!(came, expected, "{asks:?}");
    }
    // Without a digest there is no other way to it.
    made.stdout_digest = None;
    record(&server, &made).await;
    assert_eq!(looked_up(&server, NOTHING).await.stdout_raw.len(), 100 * KI);
}

#[tokio::test]
async fn a_message_stays_within_what_clients_take() {
    let server = server().await;
    let mut made = result(&server, (MI, 6, 0)).await;
    let file = made.files[0].clone();
    let path = |index: usize| format!("{index:05}/{}", "x".repeat(250));
    made.files.extend((0..10_000).map(|index| OutputFile { path: path(index), ..file.clone() }));
    record(&server, &made).await;
    let told = looked_up(&server, LOGS).await;
    assert_eq!((told.stdout_raw.len(), told.stderr_raw.len()), (0, 6), "3.3 MB of names leave no room");
}

/// Who does not know the paths asks for what is small.
#[tokio::test]
async fn small_files_come_to_who_asks_for_them() {
    let server = server().await;
    for (length, most, expected) in [
        (100, "100", 100),
        (101, "100", 0),
        (100, "some", 0),
        (64 * KI, "1000000", 64 * KI),
        (64 * KI + 1, "1000000", 0),
    ] {
        record(&server, &result(&server, (0, 0, length)).await).await;
        let mut request = tonic::Request::new(reapi::GetActionResultRequest {
            action_digest: Some(digest_to_wire(digest(b"action"))),
            ..Default::default()
        });
        request.metadata_mut().insert("mortar-small-outputs", most.parse().unwrap());
        let told = ActionCacheClient::new(server.channel.clone()).get_action_result(request).await.unwrap();
        assert_eq!(told.into_inner().output_files[0].contents.len(), expected, "{length} of {most}");
    }
}
