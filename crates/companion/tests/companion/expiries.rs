//! Credentials that expire under load: tokens of an OAuth provider that live for a second.

use crate::{context, fresh_key, options, result, run, settings};
use async_trait::async_trait;
use axum::{body::Body, extract::Request, routing::post};
use mortar_companion::Settings;
use mortar_model::{ActionCache, ActionKey, ActionResult, Context, ExecutionMetadata, Result};
use mortar_remote::{
    Endpoint, Options,
    credentials::{ClientCredentials, Provider, Secret, Wallet},
};
use mortar_services::{
    Ports,
    listener::{self, Listener},
};
use mortar_store::MemoryStore;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Status;
use tower::ServiceExt;

const EXPIRIES: usize = 10;
const LIFE: Duration = Duration::from_secs(1);
const CALLERS: usize = 32;

/// Who is let in, and who came.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    /// Tokens, and until when they are good.
    given: HashMap<String, Instant>,
    /// Those with which somebody came in.
    seen: HashSet<String>,
    /// How often somebody did not.
    refused: u64,
}

impl Book {
    fn give(&self) -> String {
        let mut book = self.0.lock();
        let token = format!("token-{}", book.given.len());
        book.given.insert(token.clone(), Instant::now() + LIFE);
        token
    }

    fn given(&self) -> usize {
        self.0.lock().given.len()
    }

    fn lets_in(&self, request: &Request) -> bool {
        let told = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let token = told.and_then(|told| told.strip_prefix("Bearer ")).unwrap_or_default();
        let mut book = self.0.lock();
        let is_in = book.given.get(token).is_some_and(|until| Instant::now() < *until);
        match is_in {
            true => drop(book.seen.insert(token.to_owned())),
            false => book.refused += 1,
        }
        is_in
    }

    fn seen(&self) -> usize {
        self.0.lock().seen.len()
    }

    fn refused(&self) -> u64 {
        self.0.lock().refused
    }
}

/// Has a result for every action.
struct Generous;

#[async_trait]
impl ActionCache for Generous {
    async fn get(&self, _: &Context, _: ActionKey) -> Result<Option<ActionResult>> {
        let virtual_execution_duration = Some(Duration::from_secs(100));
        let metadata = ExecutionMetadata { virtual_execution_duration, ..ExecutionMetadata::default() };
        Ok(Some(ActionResult { metadata, ..result(&[]) }))
    }

    async fn put(&self, _: &Context, _: ActionKey, _: ActionResult) -> Result<()> {
        Ok(())
    }
}

async fn serve(router: axum::Router) -> String {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = listener.url();
    tokio::spawn(listener::serve(listener, router, std::future::pending()));
    url
}

/// A cache for those whom the book lets in.
async fn cache(book: &Book) -> String {
    let store = MemoryStore::new(1 << 30);
    let ports = Ports {
        blobs: store.clone(),
        actions: Arc::new(Generous),
        encoded: None,
        uploads: store.clone(),
        index: store.clone(),
        values: store,
        chunks: None,
        executor: None,
        lease: None,
        offers: None,
    };
    let (inner, book) = (mortar_services::router(&ports, None, Default::default()), book.clone());
    serve(axum::Router::new().fallback(move |request: Request| {
        let (inner, is_in) = (inner.clone(), book.lets_in(&request));
        async move {
            match is_in {
                true => inner.oneshot(request).await.unwrap(),
                false => Status::unauthenticated("not with that").into_http::<Body>(),
            }
        }
    }))
    .await
}

/// One that gives tokens.
async fn provider(book: &Book) -> ClientCredentials {
    let book = book.clone();
    let give = move || async move {
        let token = book.give();
        (
            [("content-type", "application/json")],
            format!(
                r#"{{"access_token": "{token}", "token_type": "Bearer", "expires_in": {}}}"#,
                LIFE.as_secs()
            ),
        )
    };
    let url = serve(axum::Router::new().route("/token", post(give))).await;
    let token = format!("{}/token", url.replace("grpc://", "http://"));
    ClientCredentials {
        provider: Provider::Endpoints { token, device: None },
        client_id: "ci".into(),
        client_secret: Secret::new("hush"),
        scopes: vec![],
        audience: None,
        tls: Default::default(),
    }
}

/// Every call is one to the upstream, which knows the answer and tells it to those alone who are let in: a call that was
/// refused would be a miss here.
#[tokio::test(flavor = "multi_thread")]
async fn ten_expiries_under_load_reach_no_client() {
    let (directory, book) = (tempfile::tempdir().unwrap(), Book::default());
    let remote = Options { credentials: Some(Wallet::of(provider(&book).await)), ..options() };
    let running = run(Settings { remote, ..settings(directory.path(), &cache(&book).await) }).await;
    let begun = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let url = running.client.endpoint().to_string();
            let (client, book) = (Endpoint::connect(&url, options()).unwrap(), book.clone());
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while book.seen() <= EXPIRIES {
                    let asked = Instant::now();
                    let answer = client.get(&context(), fresh_key()).await;
                    // Two tokens in a row can run out under a single call only if it takes longer than this.
                    let was_starved = asked.elapsed() >= LIFE.mul_f64(0.8);
                    assert!(was_starved || matches!(answer, Ok(Some(_))), "{answer:?}");
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for caller in callers {
        calls += caller.await.unwrap();
    }
    let (rate, refused) = (calls as f64 / begun.elapsed().as_secs_f64(), book.refused());
    println!("{calls} calls, {rate:.0} a second, {refused} refused and repeated");
    // Nothing but what was needed was asked for.
    assert!((EXPIRIES..=EXPIRIES + 2).contains(&(book.given() - 1)), "{}", book.given());
    running.end().await;
}
