//! A process that is killed while it writes: what it acknowledged is there, and what is there is whole.

use crate::fixture::{PLENTY, balanced, config, context, fetch, files, open, until, walked};
use bytes::Bytes;
use mortar_model::{BlobStore, Digest, DigestFunction, Encoding, Range, UploadId, UploadSessions};
use mortar_store::DiskStore;
use mortar_testkit::{conformance::Random, faults};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

const CHILD: &str = "MORTAR_STORE_TEST_KILLED";
/// As many as a build has time for; more on demand.
const ROUNDS: usize = 30;
const MORE_ROUNDS: &str = "MORTAR_KILL_ROUNDS";
/// Of the latest rounds, all is looked at; of earlier ones, some of it.
const LATELY: usize = 500;
const WRITERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives() {
    let directory = tempfile::tempdir().unwrap();
    let rounds =
        std::env::var(MORE_ROUNDS).map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut random = Random::new();
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let child = spawn(directory.path());
        let after = 1 + random.number() as usize % 60;
        acknowledged.extend(kill_after(child, after));
        let store = open(directory.path());
        for (age, digest) in acknowledged.iter().rev().enumerate() {
            if age < LATELY || random.number().is_multiple_of(16) {
                expect_whole(&store, *digest, round).await;
            }
        }
        walked(&store).await;
        let stats = store.stats();
        assert!(stats.blobs >= acknowledged.len() as u64 && stats.quarantined == 0, "{stats:?}");
        assert_eq!((stats.evictions, stats.lost), (0, 0), "{stats:?}");
        balanced(&store, directory.path()).await;
        // Uploads that were in hand stay, to be continued.
        let tmp = directory.path().join("tmp");
        until("unfinished files are cleared away", || files(&tmp).is_empty()).await;
    }
}

async fn expect_whole(store: &DiskStore, digest: Digest, round: usize) {
    let bytes = fetch(store, digest, Range::ALL).await;
    let bytes = bytes.unwrap_or_else(|error| panic!("round {round}: what was acknowledged is gone: {error}"));
    assert_eq!(Digest::of(digest.function(), &bytes), digest);
    let value = crate::fixture::value(store, *digest.hash()).await;
    assert_eq!(value, Some(Bytes::copy_from_slice(digest.hash())), "round {round}");
}

fn spawn(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["killed::the_one_that_is_killed", "--exact", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child when it has acknowledged so many; returns all that it did until it was dead.
fn kill_after(mut child: Child, count: usize) -> Vec<Digest> {
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The last line may be cut.
        if let Some(digest) = line.ok().as_deref().and_then(parse) {
            acknowledged.push(digest);
            if acknowledged.len() == count {
                child.kill().unwrap();
            }
        }
    }
    let status = child.wait().unwrap();
    assert!(!status.success() && acknowledged.len() >= count, "the child ended by itself: {status}");
    acknowledged
}

fn parse(line: &str) -> Option<Digest> {
    let (_, rest) = line.split_once("acknowledged ")?;
    let (hash, size) = rest.strip_suffix('.')?.split_once('/')?;
    Digest::parse(DigestFunction::Sha256, hash, size.parse().ok()?).ok()
}

/// Does nothing but as the child of the test above; then writes until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let store = DiskStore::open(config(Path::new(&directory), PLENTY)).unwrap();
    let writers = (0..WRITERS).map(|_| tokio::spawn(write_forever(store.clone())));
    futures::future::join_all(writers).await;
}

async fn write_forever(store: Arc<DiskStore>) {
    let mut random = Random::new();
    loop {
        let length = [100, 5_000, 300_000][random.number() as usize % 3];
        let (digest, bytes) = random.blob(DigestFunction::Sha256, length);
        let value = Bytes::copy_from_slice(digest.hash());
        crate::fixture::put_value(&store, *digest.hash(), value).await;
        if random.number().is_multiple_of(3) {
            let mut upload = store
                .open(&context(), &UploadId(digest.hex().into()), digest, Encoding::Identity)
                .await
                .unwrap();
            upload.write(bytes).await.unwrap();
            upload.finish().await.unwrap();
        } else {
            let blob = faults::claiming(digest.size(), bytes);
            store.write(&context(), digest, blob).await.unwrap();
        }
        // Not to be lost in a buffer.
        writeln!(std::io::stdout().lock(), "acknowledged {digest}.").unwrap();
    }
}
