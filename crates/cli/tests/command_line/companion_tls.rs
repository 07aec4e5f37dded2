//! The companion and servers that speak TLS: whom it trusts, and who it is to them.

use crate::{
    LIMIT, MORTAR, run,
    upstream::{Upstream, upstream},
};
use authority::{Authority, terminate};
use bytes::Bytes;
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestFunction, DigestSet};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_testkit::{conformance::Random, mortar::Mortar, process::Finished};
use std::{fs, path::Path, time::Duration};

#[path = "../../../remote/tests/remote/credentials/authority.rs"]
mod authority;

const LEASE: Duration = Duration::from_secs(3 * 3600);

/// An upstream behind TLS, and where that is. Clients need a certificate of `clients`, if that is given.
async fn upstream_behind(authority: &Authority, clients: Option<&Authority>) -> (Upstream, String) {
    let upstream = upstream(Some(LEASE)).await;
    let plain = upstream.url.trim_start_matches("grpc://").replace("localhost", "127.0.0.1");
    let port = terminate(plain.parse().unwrap(), authority, clients).await;
    (upstream, format!("grpcs://localhost:{port}"))
}

/// A companion in this directory, and a client of it.
fn companion(directory: &Path, url: &str, flags: &[&Path]) -> (Mortar, Remote) {
    let mut all = vec!["--upstream", url];
    all.extend(flags.iter().map(|flag| flag.to_str().unwrap()));
    let companion = Mortar::start(MORTAR, "companion", directory, &all).unwrap();
    let options = Options { retry: Retry::NEVER, ..Options::default() };
    let client = Endpoint::connect(&companion.grpc(), options).unwrap();
    (companion, client)
}

fn flush(directory: &Path, limit: Duration) -> Finished {
    let (dir, limit) = (directory.to_str().unwrap(), format!("{}ms", limit.as_millis()));
    run(directory, &["companion", "flush", "--dir", dir, "--timeout", &limit])
}

async fn write(client: &Remote) -> (Digest, Bytes) {
    let (digest, bytes) = Random::new().blob(DigestFunction::Sha256, 300_000);
    client.write_bytes(&Context::internal(), digest, bytes.clone()).await.unwrap();
    (digest, bytes)
}

async fn has(upstream: &Upstream, digest: Digest) -> bool {
    let digests = DigestSet::from_iter([digest]);
    upstream.store.find_missing(&Context::glance(), &digests).await.unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_goes_to_a_server_that_is_trusted_and_comes_from_there() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let [ca, wrong] = [("ca", &authority), ("wrong", &stranger)].map(|(name, authority)| {
        let path = directory.path().join(name);
        fs::write(&path, authority.pem()).unwrap();
        path
    });
    let (upstream, url) = upstream_behind(&authority, None).await;
    let [first, second, third] = ["first", "second", "third"].map(|name| directory.path().join(name));
    let flag = Path::new("--tls-ca");

    let (_companion, client) = companion(&first, &url, &[flag, &ca]);
    let (digest, bytes) = write(&client).await;
    let flushed = flush(&first, LIMIT);
    assert!(flushed.status.success(), "{}", flushed.stderr);
    assert!(has(&upstream, digest).await);
    let (_companion, client) = companion(&second, &url, &[flag, &ca]);
    assert_eq!(client.read_all(&Context::internal(), digest, 1 << 20).await.unwrap(), bytes);

    // Nothing goes to one that is not.
    let (_companion, client) = companion(&third, &url, &[flag, &wrong]);
    let (digest, _) = write(&client).await;
    let flushed = flush(&third, Duration::from_secs(1));
    assert_eq!(flushed.status.code(), Some(1));
    assert!(flushed.stderr.contains("certificate"), "{}", flushed.stderr);
    assert!(!has(&upstream, digest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_its_certificate_and_takes_a_renewed_one() {
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca");
    fs::write(&ca, authority.pem()).unwrap();
    let (upstream, url) = upstream_behind(&authority, Some(&clients)).await;
    let (certificate, key) = stranger.write(directory.path(), "me");
    let near = directory.path().join("near");
    let flags: [&Path; 6] = [
        Path::new("--tls-ca"),
        &ca,
        Path::new("--tls-certificate"),
        &certificate,
        Path::new("--tls-key"),
        &key,
    ];
    let (_companion, client) = companion(&near, &url, &flags);
    let (digest, _) = write(&client).await;
    let refused = flush(&near, Duration::from_secs(1));
    assert_eq!(refused.status.code(), Some(1), "with a certificate of somebody else");
    assert!(!has(&upstream, digest).await);

    clients.write(directory.path(), "me");
    let flushed = flush(&near, LIMIT);
    assert!(flushed.status.success(), "{}", flushed.stderr);
    assert!(has(&upstream, digest).await);
}
