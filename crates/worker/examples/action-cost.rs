//! What an action costs a worker over a store on disk: a no-op, one with many linked inputs, one with many outputs.
#![allow(clippy::unwrap_used)]

use mortar_model::{
    Action, BlobStoreExt, Command, Context, Digest, DigestFunction, Directory, ExecutionMetadata, FileNode,
    LocalFiles,
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

const RUNS: u32 = 50;

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
    for (name, inputs, script) in [
        ("no-op", 0, "true"),
        ("500 linked inputs", 500, "true"),
        ("50 outputs", 0, "for i in {1..50}; do echo $RANDOM$RANDOM$RANDOM > out/$i; done"),
    ] {
        let action = action(&disk, inputs, script).await;
        let started = Instant::now();
        for _ in 0..RUNS {
            let run = Run {
                execution: ExecutionId("cost".into()),
                context: Context::internal(),
                action_digest: action,
                metadata: ExecutionMetadata::default(),
                default_timeout: Duration::from_secs(60),
            };
            let outcome = worker.run(run, Arc::new(()), Default::default()).await.expect("it runs");
            assert_eq!(outcome.result.exit_code, 0);
        }
        println!("{name}: {:?} an action", started.elapsed() / RUNS);
    }
}

async fn action(disk: &DiskStore, inputs: usize, script: &str) -> Digest {
    let mut files = Vec::new();
    for index in 0..inputs {
        let name = format!("{index:05}");
        let digest = put(disk, name.repeat(2000).into_bytes()).await;
        files.push(FileNode { name, digest, is_executable: true, properties: None });
    }
    let command = Command {
        arguments: ["/bin/bash", "-c", script].map(String::from).to_vec(),
        outputs: Outputs::Typed { files: Vec::new(), directories: vec!["out".into()] },
        ..Command::default()
    };
    let action = Action {
        command_digest: put(disk, encode_command(&command).to_vec()).await,
        input_root_digest: put(disk, encode_directory(&Directory { files, ..Directory::default() }).to_vec())
            .await,
        timeout: None,
        do_not_cache: true,
        platform: None,
    };
    put(disk, encode_action(&action).to_vec()).await
}

async fn put(disk: &DiskStore, bytes: Vec<u8>) -> Digest {
    let digest = Digest::of(DigestFunction::Sha256, &bytes);
    disk.write_bytes(&Context::internal(), digest, bytes.into()).await.expect("it can be written");
    digest
}
