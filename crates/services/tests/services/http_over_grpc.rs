//! The HTTP cache over a gRPC server elsewhere: many requests of HTTP/1.1 in front are few connections behind, and sizes,
//! which such clients do not tell, are known from what was seen.

use crate::support::digest;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mortar_model::{ActionCache, ActionResult, BlobStoreExt, Context, Digest, OutputDirectory, OutputFile};
use mortar_remote::{Endpoint, Options, Remote};
use mortar_services::{
    Ports,
    listener::{self, Listener},
};
use mortar_store::{Completeness, MemoryStore, Results, SizesSeen};
use mortar_testkit::faults::Gated;
use mortar_wire::{Protobuf, reapi};
use prost::Message;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::net::{TcpListener, TcpStream};

/// The server that is elsewhere.
struct Upstream {
    store: Arc<MemoryStore>,
    /// Its blobs, which wait for a test.
    gate: Arc<Gated>,
    accepted: Arc<AtomicUsize>,
    remote: Remote,
}

async fn upstream() -> Upstream {
    let store = MemoryStore::new(256 << 20);
    let gate = Gated::new(store.clone());
    gate.open();
    let results = Arc::new(Results::new(store.clone(), Arc::new(Protobuf)));
    let ports = Ports {
        actions: Arc::new(Completeness::new(results, store.clone(), Arc::new(Protobuf))),
        blobs: gate.clone(),
        encoded: None,
        uploads: store.clone(),
        index: store.clone(),
        values: store.clone(),
        chunks: None,
        executor: None,
        lease: None,
        offers: None,
    };
    let address = serve(&ports).await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = format!("grpc://{}", relay.local_addr().unwrap());
    let counter = accepted.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = relay.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let address = address.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(address).await.unwrap();
                // However it ends, the relay has no more to do.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let remote = Endpoint::connect(&remote, Options::default()).unwrap();
    Upstream { store, gate, accepted, remote }
}

async fn serve(ports: &Ports) -> String {
    let router = mortar_services::router(ports, None, axum::Router::new());
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.url().strip_prefix("grpc://").unwrap().to_owned();
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    address
}

/// A front that has seen nothing, and a client of it: one connection a request that is under way.
struct Front {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

async fn front(remote: &Remote) -> Front {
    let seen = SizesSeen::new(10_000, Arc::new(Protobuf));
    let blobs = seen.blobs(Arc::new(remote.clone()));
    let ports = Ports {
        actions: seen.actions(Arc::new(remote.clone())),
        index: seen.index(blobs.clone()),
        blobs,
        encoded: None,
        uploads: Arc::new(remote.uploads()),
        // What other clients keep under `/ac/` has no place in REAPI.
        values: MemoryStore::new(1 << 20),
        chunks: None,
        executor: None,
        lease: None,
        offers: None,
    };
    let base = format!("http://{}", serve(&ports).await);
    Front { base, client: Client::builder(TokioExecutor::new()).build_http() }
}

impl Front {
    async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let request = request.header("user-agent", "bazel/4.2.3").body(Full::new(body.into())).unwrap();
        let (head, body) = self.client.request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn blob(&self, digest: Digest) -> (StatusCode, Bytes) {
        let answer = self.call("GET", &format!("/cas/{}", digest.hex()), "").await;
        (answer.status(), answer.into_body())
    }
}

fn file(path: &str, digest: Digest) -> OutputFile {
    OutputFile { path: path.into(), digest, is_executable: false, contents: Bytes::new(), properties: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_are_two_connections() {
    let (upstream, context) = (upstream().await, Context::internal());
    let mut result = ActionResult::default();
    let mut blobs = Vec::new();
    for number in 0..200 {
        let bytes =
            Bytes::from(format!("content {number} ").repeat(if number % 10 == 0 { 20_000 } else { 10 }));
        let digest = digest(&bytes);
        upstream.store.write_bytes(&context, digest, bytes.clone()).await.unwrap();
        result.files.push(file(&format!("out/{number}"), digest));
        blobs.push((digest, bytes));
    }
    let key = digest(b"an action");
    upstream.remote.put(&context, key.into(), result).await.unwrap();

    let front = front(&upstream.remote).await;
    assert_eq!(front.call("GET", &format!("/ac/{}", key.hex()), "").await.status(), StatusCode::OK);
    // All of them are with the upstream at the same time.
    upstream.gate.close();
    let asked = blobs.iter().map(|(digest, _)| front.blob(*digest));
    let (answers, ()) = futures::join!(futures::future::join_all(asked), async {
        upstream.gate.arrived(200).await;
        upstream.gate.open();
    });
    for ((_, bytes), (status, got)) in blobs.iter().zip(&answers) {
        assert_eq!(*status, StatusCode::OK);
        assert!(got == bytes);
    }
    // Uploads as well.
    let uploads = (0..200).map(|number| {
        let bytes = Bytes::from(format!("upload {number}").repeat(5_000));
        let path = format!("/cas/{}", digest(&bytes).hex());
        let front = &front;
        async move { front.call("PUT", &path, bytes).await.status() }
    });
    assert!(futures::future::join_all(uploads).await.iter().all(|status| *status == StatusCode::OK));
    let accepted = upstream.accepted.load(Ordering::SeqCst);
    assert!(accepted <= 2, "{accepted} connections");
}

#[tokio::test]
async fn sizes_are_known_from_what_was_seen() {
    let (upstream, context) = (upstream().await, Context::internal());
    let keep = async |bytes: &'static [u8]| {
        let digest = digest(bytes);
        upstream.store.write_bytes(&context, digest, bytes.into()).await.unwrap();
        digest
    };
    let (named, in_tree, deep, stranger) = (
        keep(b"named").await,
        keep(b"in a tree").await,
        keep(b"deep in a tree").await,
        keep(b"stranger").await,
    );
    let of = |digest: Digest, name: &str| reapi::FileNode {
        name: name.into(),
        digest: Some(mortar_wire::digest_to_wire(digest)),
        ..Default::default()
    };
    let child = reapi::Directory { files: vec![of(deep, "deep")], ..Default::default() };
    let child_digest = digest(&child.encode_to_vec());
    let down =
        reapi::DirectoryNode { name: "down".into(), digest: Some(mortar_wire::digest_to_wire(child_digest)) };
    let root =
        reapi::Directory { files: vec![of(in_tree, "file")], directories: vec![down], ..Default::default() };
    let tree = Bytes::from(reapi::Tree { root: Some(root), children: vec![child] }.encode_to_vec());
    let tree_digest = digest(&tree);
    upstream.store.write_bytes(&context, tree_digest, tree.clone()).await.unwrap();
    let directory = OutputDirectory {
        path: "dir".into(),
        tree_digest: Some(tree_digest),
        is_topologically_sorted: false,
        root_directory_digest: None,
    };
    let result =
        ActionResult { files: vec![file("out", named)], directories: vec![directory], ..Default::default() };
    let key = digest(b"another action");
    upstream.remote.put(&context, key.into(), result).await.unwrap();

    let front = front(&upstream.remote).await;
    let unknown = StatusCode::NOT_FOUND;
    assert_eq!(front.blob(named).await.0, unknown, "no result has told of it");
    assert_eq!(front.call("GET", &format!("/ac/{}", key.hex()), "").await.status(), StatusCode::OK);
    assert_eq!(front.blob(named).await, (StatusCode::OK, "named".into()));
    assert_eq!(front.blob(in_tree).await.0, unknown, "the tree has not been read");
    assert_eq!(front.blob(tree_digest).await, (StatusCode::OK, tree));
    assert_eq!(front.blob(in_tree).await, (StatusCode::OK, "in a tree".into()));
    assert_eq!(front.blob(deep).await, (StatusCode::OK, "deep in a tree".into()));
    assert_eq!(front.blob(stranger).await.0, unknown);

    let mine = digest(b"mine");
    let path = format!("/cas/{}", mine.hex());
    assert_eq!(front.call("PUT", &path, "mine").await.status(), StatusCode::OK);
    assert_eq!(front.blob(mine).await, (StatusCode::OK, "mine".into()));
    assert_eq!(front.call("HEAD", &path, "").await.headers()["content-length"], "4");
    assert_eq!(front.blob(digest(b"")).await, (StatusCode::OK, Bytes::new()));
}
