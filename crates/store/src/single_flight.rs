//! A decorator of blob stores: equal calls at the same time are one call.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use mortar_model::{
    Blob, BlobStore, Context, Digest, DigestSet, Error, InstanceName, Range, Result, context::Promise,
};
use parking_lot::Mutex;
use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

/// How long a writer waits for another writer of the same blob, who may have a slower client, before it writes by
/// itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Merges reads of the same small blob, and writes of the same blob, that come while one is under way.
///
/// Stands before a store in which a call is expensive: directly before a store behind a network, or before a
/// [`ReadThrough`](crate::ReadThrough) whose far store is one. Before a local store it costs more than it saves.
/// Whole reads of blobs up to a limit are merged, and held in memory until all who asked have them; others are passed
/// on, so that no reader waits for the pace of another. All who wait drive a merged call: if the one who began it is
/// cancelled, the rest go on; when the last one is cancelled, so is the call. A failure is told only to those who
/// asked before the call began; the others make one more call, for what they look for may have come meanwhile.
/// `find_missing` is passed on. Powers go around it.
pub struct SingleFlight {
    inner: Arc<dyn BlobStore>,
    max_merged: u64,
    /// Apart for those who build on the blob, and those who only look.
    reads: Arc<Flights<(InstanceName, Digest, bool), Bytes>>,
    writes: Arc<Flights<(InstanceName, Digest), ()>>,
}

impl SingleFlight {
    /// Over `inner`; reads of blobs of at most `max_merged` bytes are merged.
    pub fn new(inner: Arc<dyn BlobStore>, max_merged: u64) -> Self {
        Self { inner, max_merged, reads: Arc::default(), writes: Arc::default() }
    }
}

#[async_trait]
impl BlobStore for SingleFlight {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        if digest.size() > self.max_merged || !range.is_all_of(digest) {
            return self.inner.read(context, digest, range).await;
        }
        let key = (context.instance.clone(), digest, context.promise == Promise::Lease);
        let board = || {
            let (inner, context) = (self.inner.clone(), without_deadline(context));
            self.reads.board(key.clone(), || async move {
                inner.read(&context, digest, Range::ALL).await?.into_bytes().await
            })
        };
        let (begun_here, flight) = board();
        let landed = match flight.await {
            Err(_) if !begun_here => board().1.await,
            landed => landed,
        };
        landed.map(Blob::bytes).map_err(told_again)
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let key = (context.instance.clone(), digest);
        let mut blob = Some(blob);
        while blob.is_some() {
            let (begun_here, flight) = self.writes.board(key.clone(), || {
                let (inner, context) = (self.inner.clone(), without_deadline(context));
                let blob = blob.take().expect("it is taken once, which ends the loop");
                async move { inner.write(&context, digest, blob).await }
            });
            if begun_here {
                return flight.await.map_err(told_again);
            }
            match tokio::time::timeout(PATIENCE, flight).await {
                Ok(Ok(())) => return Ok(()),
                // The other one's content was at fault, or nobody's: this one's is tried.
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
        match blob {
            Some(blob) => self.inner.write(context, digest, blob).await,
            None => Ok(()),
        }
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.inner.find_missing(context, digests).await
    }
}

/// A merged call does not end when the first of its callers stops waiting.
fn without_deadline(context: &Context) -> Context {
    Context { deadline: None, ..context.clone() }
}

type Call<T> = BoxFuture<'static, Result<T, Arc<Error>>>;
type Flight<T> = Shared<Call<T>>;

/// Calls under way, by what they are about.
struct Flights<K, T> {
    /// Held weakly: only those who wait keep a call alive.
    flying: Mutex<Flying<K, T>>,
}

struct Flying<K, T> {
    flights: HashMap<K, (u64, WeakShared<Call<T>>)>,
    begun: u64,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { flying: Mutex::new(Flying { flights: HashMap::new(), begun: 0 }) }
    }
}

impl<K: Eq + Hash + Clone + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// The call under way about `key`, or a new one; and whether it is new.
    fn board<F>(self: &Arc<Self>, key: K, begin: impl FnOnce() -> F) -> (bool, Flight<T>)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut flying = self.flying.lock();
        if let Some(flight) = flying.flights.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return (false, flight);
        }
        flying.begun += 1;
        let landing = Landing { flights: self.clone(), key: key.clone(), number: flying.begun };
        let call = begin();
        let flight = async move {
            let landed = call.await.map_err(Arc::new);
            // Before anybody hears of the outcome: who comes from now on is to have a newer one.
            drop(landing);
            landed
        };
        let flight = flight.boxed().shared();
        let weak = flight.downgrade().expect("a flight that was not polled has not ended");
        let number = flying.begun;
        flying.flights.insert(key, (number, weak));
        (true, flight)
    }
}

/// Takes a call off the list when it ends, also when it is cancelled, which nothing but a drop tells.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut flying = self.flights.flying.lock();
        if flying.flights.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            flying.flights.remove(&self.key);
        }
    }
}

/// The error of a call that several made.
fn told_again(error: Arc<Error>) -> Error {
    let mut again = Error::new(error.kind().clone());
    if let Some(hint) = error.get_hint() {
        again = again.hint(hint);
    }
    match std::error::Error::source(&*error) {
        Some(source) => again.with_source(source.to_string()),
        None => again,
    }
}
