//! One companion for a directory: found by others, taken over, ended.

use crate::{LEASE, LIMIT, context, fresh, options, settings, upstream::upstream};
use mortar_companion::life::{self, Home, Sockets, Taken, hand_over};
use mortar_model::{BlobStoreExt, Result};
use mortar_remote::Endpoint;
use mortar_wire::companion::{
    FlushRequest, GetStatusRequest, StopRequest, companion_client::CompanionClient,
};
use std::{path::Path, time::Duration};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Takes the directory, or tells where its companion is.
async fn begin(directory: &Path, upstream: &str, idle: Duration) -> (String, Option<JoinHandle<Result<()>>>) {
    let home = Home::new(directory, None);
    let ownership = match home.take().await.unwrap() {
        Taken::Ours(ownership) => ownership,
        Taken::Theirs(whereabouts) => return (whereabouts.url, None),
    };
    let sockets = Sockets::open(&home, None).await.unwrap();
    serve(ownership, sockets, directory, upstream, idle).await
}

async fn serve(
    ownership: life::Ownership,
    sockets: Sockets,
    directory: &Path,
    upstream: &str,
    idle: Duration,
) -> (String, Option<JoinHandle<Result<()>>>) {
    let (tell, told) = oneshot::channel();
    let settings = settings(directory, upstream);
    let serving = tokio::spawn(async move {
        let ready = |whereabouts: &life::Whereabouts, _: &_| {
            let _ = tell.send(whereabouts.url.clone());
            Ok(())
        };
        life::serve(ownership, settings, sockets, idle, CancellationToken::new(), ready).await.map(drop)
    });
    (told.await.unwrap(), Some(serving))
}

async fn admin(directory: &Path) -> CompanionClient<tonic::transport::Channel> {
    let living = Home::new(directory, None).living().await.unwrap();
    let endpoint: Endpoint = format!("unix:{}", living.socket.display()).parse().unwrap();
    CompanionClient::new(endpoint.channel(&options()))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_start_at_once_one_is_left_and_all_know_it() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let starts = (0..8).map(|_| begin(directory.path(), &upstream.url, NEVER));
    let started = futures::future::join_all(starts).await;
    let serving: Vec<_> = started.iter().filter(|(_, serving)| serving.is_some()).collect();
    assert_eq!(serving.len(), 1);
    assert!(started.iter().all(|(url, _)| *url == started[0].0));
    let mut admin = admin(directory.path()).await;
    let status = admin.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.url, status.process), (started[0].0.clone(), std::process::id()));
    assert_eq!(status.upstreams[0].address, upstream.url);
    admin.stop(StopRequest {}).await.unwrap();
    for (_, serving) in started {
        if let Some(serving) = serving {
            tokio::time::timeout(LIMIT, serving).await.unwrap().unwrap().unwrap();
        }
    }
    assert!(Home::new(directory.path(), None).living().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn its_port_is_the_same_at_each_start() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let mut urls = Vec::new();
    for _ in 0..2 {
        let (url, serving) = begin(directory.path(), &upstream.url, NEVER).await;
        urls.push(url);
        admin(directory.path()).await.stop(StopRequest {}).await.unwrap();
        tokio::time::timeout(LIMIT, serving.unwrap()).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(urls[0], urls[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_uses_ends() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (url, serving) = begin(directory.path(), &upstream.url, Duration::from_millis(200)).await;
    let client = Endpoint::connect(&url, options()).unwrap();
    let (digest, bytes) = fresh(1_000);
    // It may have ended before it was called, on a slow machine; then nothing is owed either.
    let _ = client.write_bytes(&context(), digest, bytes).await;
    tokio::time::timeout(LIMIT, serving.unwrap()).await.unwrap().unwrap().unwrap();
    assert!(Home::new(directory.path(), None).living().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_one_takes_over_and_no_call_is_refused() {
    let (directory, upstream) = (tempfile::tempdir().unwrap(), upstream(Some(LEASE)).await);
    let (url, first) = begin(directory.path(), &upstream.url, NEVER).await;
    let stop = CancellationToken::new();
    let calls = {
        let (url, stop) = (url.clone(), stop.clone());
        tokio::spawn(async move {
            let mut made = 0;
            while !stop.is_cancelled() {
                // A connection of its own each time: one that is refused fails the test.
                let client = Endpoint::connect(&url, options()).unwrap();
                let (digest, bytes) = fresh(1_000);
                client.write_bytes(&context(), digest, bytes).await.unwrap();
                made += 1;
            }
            made
        })
    };
    let home = Home::new(directory.path(), None);
    let living = home.living().await.unwrap();
    let sockets = hand_over::take_over(&home, &living).await.unwrap();
    let ownership = home.succeed().await.unwrap();
    tokio::time::timeout(LIMIT, first.unwrap()).await.unwrap().unwrap().unwrap();
    let (again, second) = serve(ownership, sockets, directory.path(), &upstream.url, NEVER).await;
    assert_eq!(url, again);
    let mut admin = admin(directory.path()).await;
    let flushed = admin.flush(FlushRequest { timeout: None }).await.unwrap().into_inner();
    assert_eq!(flushed.left.map(|left| left.blobs), Some(0));
    stop.cancel();
    assert!(calls.await.unwrap() > 0);
    admin.stop(StopRequest {}).await.unwrap();
    tokio::time::timeout(LIMIT, second.unwrap()).await.unwrap().unwrap().unwrap();
}
