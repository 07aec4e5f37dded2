//! A decorator of result stores: action results that are asked for often, in memory.

use crate::bounded::{Bounded, bounded};
use async_trait::async_trait;
use mortar_model::{
    ActionKey, ActionResult, Clock, Context, Digest, InstanceName, KeptResult, NodeProperties, Result,
    ResultStore,
};
use parking_lot::Mutex;
use quick_cache::Weighter;
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

/// Serves action results from memory, with their closures, without reading and decoding their records again.
///
/// Stands between the store that keeps results and the action cache that looks whether they are complete; that one
/// must stay outside, since it is what extends the promise of the blobs of a result that is served from here, and
/// what finds out that one of them is gone. Results change and are purged, so all puts and removals must come through
/// it. What happens below behind its back (results that are evicted) is noticed after `trust` at the latest: then the
/// store below is asked again, which also counts as a use there. `trust` should be short, a minute or so: long enough
/// for what many clients ask at the same time.
pub struct ResultTier {
    inner: Arc<dyn ResultStore>,
    held: Arc<Bounded<Key, Held, Weight>>,
    /// How often results changed, by a hash of their keys: a result that was read before a change must not enter
    /// after it.
    changes: Box<[Mutex<u64>]>,
    spread: RandomState,
    trust: Duration,
    clock: Arc<dyn Clock>,
}

type Key = (InstanceName, ActionKey);

#[derive(Clone)]
struct Held {
    kept: Arc<KeptResult>,
    asked: Instant,
}

const STRIPES: usize = 64;

impl ResultTier {
    /// The budget where nobody has chosen another, in bytes.
    pub const DEFAULT_BUDGET: u64 = 16 << 20;

    /// Over `inner`, in at most `budget` bytes of memory.
    pub fn new(inner: Arc<dyn ResultStore>, budget: u64, trust: Duration, clock: Arc<dyn Clock>) -> Self {
        let changes = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        let held = bounded(budget, 2 << 10, Weight);
        Self { inner, held, changes, spread: RandomState::new(), trust, clock }
    }

    /// What is held now, in bytes, as far as it can be told.
    pub fn bytes(&self) -> u64 {
        self.held.weight()
    }

    /// Forgets everything, without touching the store below.
    pub fn forget_all(&self) {
        for stripe in &self.changes {
            *stripe.lock() += 1;
        }
        self.held.clear();
    }

    fn stripe(&self, key: &Key) -> &Mutex<u64> {
        &self.changes[self.spread.hash_one(key) as usize % STRIPES]
    }

    /// To be called after the store below has changed.
    fn forget(&self, key: &Key) {
        let mut changes = self.stripe(key).lock();
        *changes += 1;
        self.held.remove(key);
    }
}

#[async_trait]
impl ResultStore for ResultTier {
    async fn get(&self, context: &Context, key: ActionKey) -> Result<Option<KeptResult>> {
        let (key, asked) = ((context.instance.clone(), key), self.clock.now());
        let held = self.held.get(&key);
        if let Some(held) = held.filter(|held| asked.saturating_duration_since(held.asked) < self.trust) {
            return Ok(Some((*held.kept).clone()));
        }
        let before = *self.stripe(&key).lock();
        let kept = self.inner.get(context, key.1).await?;
        let changes = self.stripe(&key).lock();
        match &kept {
            Some(kept) if *changes == before => {
                self.held.insert(key, Held { kept: Arc::new(kept.clone()), asked });
            }
            Some(_) => {}
            None => drop(self.held.remove(&key)),
        }
        Ok(kept)
    }

    async fn put(&self, context: &Context, key: ActionKey, kept: KeptResult) -> Result<()> {
        let put = self.inner.put(context, key, kept).await;
        // Even if it failed: it may have come into effect.
        self.forget(&(context.instance.clone(), key));
        put
    }

    async fn remove(&self, context: &Context, key: ActionKey) -> Result<bool> {
        let removed = self.inner.remove(context, key).await;
        self.forget(&(context.instance.clone(), key));
        removed
    }

    async fn producers(&self, digest: Digest) -> Result<Vec<(InstanceName, ActionKey)>> {
        self.inner.producers(digest).await
    }
}

/// What an entry, an output and a digest of a closure take besides their text and bytes, rounded up.
const ENTRY: usize = 768;
const OUTPUT: usize = 160;
const NAMED: usize = 128;

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Held> for Weight {
    fn weight(&self, key: &Key, held: &Held) -> u64 {
        let kept = &held.kept;
        let closure = kept.closure.len() * NAMED;
        (ENTRY + key.0.as_str().len() + kept.invocation.len() + closure + weight_of(&kept.result)) as u64
    }
}

fn weight_of(result: &ActionResult) -> usize {
    let properties = |properties: &Option<NodeProperties>| {
        let named = properties.iter().flat_map(|properties| &properties.other);
        named.map(|(name, value)| OUTPUT + name.len() + value.len()).sum::<usize>()
    };
    let files = result.files.iter();
    let files = files.map(|f| OUTPUT + f.path.len() + f.contents.len() + properties(&f.properties));
    let directories = result.directories.iter().map(|directory| OUTPUT + directory.path.len());
    let links = [&result.symlinks, &result.file_symlinks, &result.directory_symlinks].into_iter().flatten();
    let links = links.map(|l| OUTPUT + l.path.len() + l.target.len() + properties(&l.properties));
    let logs = result.stdout_raw.len() + result.stderr_raw.len() + result.metadata.worker.len();
    files.chain(directories).chain(links).sum::<usize>() + logs
}
