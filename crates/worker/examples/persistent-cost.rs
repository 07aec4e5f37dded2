//! What a persistent worker saves: a tool that starts slowly (Python, with some libraries) does distinct small actions, one
//! after the other, in processes of their own and in one that stays.
#![allow(clippy::unwrap_used)]

use mortar_model::{
    Action, BlobStoreExt, Command, Context, Digest, DigestFunction, Directory, ExecutionMetadata, FileNode,
    LocalFiles, NodeProperties, Platform,
    action::Outputs,
    session::{ExecutionId, Run},
};
use mortar_store::{Completeness, DiskConfig, DiskStore, Results};
use mortar_wire::{Protobuf, encode_action, encode_command, encode_directory};
use mortar_worker::{Stores, Worker, WorkerConfig};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const TOOL: &str = "
import asyncio, email.message, http.client, json, sys, unittest, xml.dom.minidom
def do(lines):
    source, target = lines
    open(target, 'w').write(open(source).read())
if '--persistent_worker' in sys.argv:
    for line in sys.stdin:
        do(json.loads(line)['arguments'])
        print('{}', flush=True)
else:
    do(open(sys.argv[1][1:]).read().split())
";
/// Actions of each kind.
const PLAIN: u32 = 40;
const PERSISTENT: u32 = 400;

fn main() {
    mortar_sandbox::init_if_asked();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(measure());
}

async fn measure() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let store = DiskConfig { directory: directory.path().join("store"), max_size: 1 << 30 };
    let disk = DiskStore::open(store).expect("the store opens");
    let local = Some(Arc::clone(&disk) as Arc<dyn LocalFiles>);
    let results = Arc::new(Results::new(disk.clone(), Arc::new(Protobuf)));
    let actions = Arc::new(Completeness::new(results, disk.clone(), Arc::new(Protobuf)));
    let stores = Stores { blobs: Arc::clone(&disk) as _, near: None, local, actions };
    let config = WorkerConfig::new("bench", directory.path().join("work"));
    let worker = Worker::open(config, stores).await.expect("the sandbox works here");
    let mut rates = Vec::new();
    for (name, platform, runs) in [
        ("a process each", Vec::new(), PLAIN),
        (
            "one that stays",
            vec![("persistentWorkerKey", "bench"), ("persistentWorkerProtocol", "json")],
            PERSISTENT,
        ),
    ] {
        let mut all = Vec::new();
        for turn in 0..=runs {
            all.push(action(&disk, &platform, &format!("{name} {turn}")).await);
        }
        run(&worker, all.pop().expect("there is one more"), !platform.is_empty()).await;
        let started = Instant::now();
        for action in all {
            run(&worker, action, !platform.is_empty()).await;
        }
        let rate = f64::from(runs) / started.elapsed().as_secs_f64();
        println!("{name}: {rate:.1} actions a second, {:?} each", started.elapsed() / runs);
        rates.push(rate);
    }
    println!("one that stays is {:.1} times as fast", rates[1] / rates[0]);
}

async fn run(worker: &Worker, action_digest: Digest, persistent: bool) {
    let run = Run {
        execution: ExecutionId("cost".into()),
        context: Context::internal(),
        action_digest,
        metadata: ExecutionMetadata::default(),
        default_timeout: Duration::from_secs(60),
    };
    let outcome = worker.run(run, Arc::new(()), Default::default()).await.expect("it runs");
    assert_eq!((outcome.result.exit_code, outcome.result.files.len()), (0, 1), "{}", outcome.message);
    assert_eq!(outcome.result.metadata.persistent_worker.is_some(), persistent, "{}", outcome.message);
}

async fn action(disk: &DiskStore, platform: &[(&str, &str)], content: &str) -> Digest {
    let other = vec![("bazel_tool_input".to_owned(), String::new())];
    let mark = NodeProperties { other, ..NodeProperties::default() };
    let mut files = Vec::new();
    for (name, content, properties) in
        [("args", "in\nout\n", None), ("in", content, None), ("tool.py", TOOL, Some(mark))]
    {
        let digest = put(disk, content.as_bytes().to_vec()).await;
        files.push(FileNode { name: name.into(), digest, is_executable: true, properties });
    }
    let platform = Platform::new(platform.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    let command = Command {
        arguments: ["/usr/bin/python3", "tool.py", "@args"].map(String::from).to_vec(),
        outputs: Outputs::Paths(vec!["out".into()]),
        platform: Some(platform.clone()),
        ..Command::default()
    };
    let root = Directory { files, ..Directory::default() };
    let action = Action {
        command_digest: put(disk, encode_command(&command).to_vec()).await,
        input_root_digest: put(disk, encode_directory(&root).to_vec()).await,
        timeout: None,
        do_not_cache: true,
        platform: Some(platform),
    };
    put(disk, encode_action(&action).to_vec()).await
}

async fn put(disk: &DiskStore, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(DigestFunction::Sha256, &bytes);
    disk.write_bytes(&Context::internal(), digest, bytes.into()).await.expect("the store takes it");
    digest
}
