//! How much memory serving takes: little when idle, and hardly more when large blobs flow. Content is made while it is
//! sent and checked while it comes; nobody holds it.

use crate::MORTAR;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{Blob, BlobStore, Context, Digest, DigestFunction, Range};
use mortar_remote::{Endpoint, Options, Remote};
use mortar_testkit::mortar::Mortar;

const MIB: u64 = 1 << 20;
/// Of its own, beside the program, of which an unoptimized one takes more than all of an optimized one.
const IDLE: u64 = 16 * MIB;
const CHUNK: u64 = MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_two_gibibytes_flows_through() {
    let (mortar, _directory) = start();
    let own = mortar.anonymous().unwrap();
    assert!(own < IDLE, "idle: {} MiB", own / MIB);

    let idle = mortar.resident().unwrap();
    let remote = connect(&mortar);
    round_trip(&remote, Content { seed: 1, length: 2 << 30 }).await;
    let over = mortar.peak_resident().unwrap().saturating_sub(idle);
    println!("2 GiB: idle {} MiB, peak {} MiB over it", idle / MIB, over / MIB);
    assert!(over <= 64 * MIB, "{} MiB over idle", over / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once_are_nothing_special() {
    // What a stream holds while it waits for the client or the disk: a frame or a piece, and the piece after it. On a
    // busy machine all wait at once, beside what is in the windows of each connection.
    for (streams, connections, length, bound) in
        [(64, 1, 16 * MIB, 96 * MIB), (64, 8, 16 * MIB, 128 * MIB), (512, 8, 2 * MIB, 256 * MIB)]
    {
        let (mortar, _directory) = start();
        let idle = mortar.resident().unwrap();
        let remotes: Vec<_> = (0..connections).map(|_| connect(&mortar)).collect();
        let streams_under_way = (0..streams).map(|stream| {
            let remote = remotes[stream % remotes.len()].clone();
            tokio::spawn(async move {
                round_trip(&remote, Content { seed: 1_000 + stream as u64, length }).await;
            })
        });
        for ended in futures::future::join_all(streams_under_way).await {
            ended.unwrap();
        }
        let over = mortar.peak_resident().unwrap().saturating_sub(idle);
        let (idle, over_mib) = (idle / MIB, over / MIB);
        println!("{streams} streams on {connections}: idle {idle} MiB, peak {over_mib} MiB over it");
        assert!(over <= bound, "{over_mib} MiB over idle: {streams} streams on {connections} connections");
    }
}

fn start() -> (Mortar, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Mortar::up(MORTAR, &directory.path().join("data")).unwrap(), directory)
}

/// A client of one connection.
fn connect(mortar: &Mortar) -> Remote {
    Endpoint::connect(&mortar.grpc(), Options { connections: 1, ..Options::default() }).unwrap()
}

/// Writes the content and reads it back, which the client checks against the digest.
async fn round_trip(remote: &Remote, content: Content) {
    let (context, digest) = (Context::internal(), content.digest());
    remote.write(&context, digest, Blob::stream(content.length, content.stream())).await.unwrap();
    let blob = remote.read(&context, digest, Range::ALL).await.unwrap();
    assert_eq!(blob.len(), content.length);
    let mut hasher = mortar_model::Hasher::new(digest.function());
    let mut stream = blob.into_stream();
    while let Some(piece) = stream.try_next().await.unwrap() {
        hasher.update(&piece);
    }
    assert_eq!(hasher.finish(), digest);
}

/// Content that is known by its seed.
#[derive(Clone, Copy)]
struct Content {
    seed: u64,
    /// A multiple of [`CHUNK`].
    length: u64,
}

impl Content {
    /// One random piece whose first bytes are the number of the chunk: no two chunks are equal.
    fn chunks(self) -> impl Iterator<Item = Bytes> + Send {
        let random = mortar_testkit::conformance::Random::seeded(self.seed).bytes(CHUNK as usize);
        (0..self.length / CHUNK).map(move |number| {
            let mut chunk = random.to_vec();
            chunk[..8].copy_from_slice(&number.to_le_bytes());
            chunk.into()
        })
    }

    fn stream(self) -> impl stream::Stream<Item = mortar_model::Result<Bytes>> + Send {
        stream::iter(self.chunks()).map(Ok)
    }

    fn digest(self) -> Digest {
        let mut hasher = mortar_model::Hasher::new(DigestFunction::Blake3);
        self.chunks().for_each(|chunk| hasher.update(&chunk));
        hasher.finish()
    }
}
