//! Results as records: what comes back, who made a blob, what a purge takes along, and that no look-up is ever served a
//! result that cannot be used while blobs are evicted and results purged.

use crate::fixture::{context, fresh};
use futures::future::join_all;
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStoreExt, Context, Digest, DigestFunction, HashIndex,
    InstanceName, KeptResult, OutputFile, RequestMetadata, ResultStore, context::Promise,
};
use mortar_store::{
    Completeness, MemoryStore, Record, RecordKind, Records, Results, Selection, results::record,
};
use mortar_testkit::{codec::TableCodec, conformance::Random, faults::Forgetful};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

fn day(day: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400)
}

fn results() -> (Arc<MemoryStore>, Results) {
    let store = MemoryStore::new(1 << 30);
    (store.clone(), Results::new(store, Arc::new(TableCodec::default())))
}

fn instance(name: &str) -> Context {
    context().with_instance(InstanceName::parse(name).unwrap())
}

fn kept(closure: &[Digest]) -> KeptResult {
    let closure = Arc::new(closure.iter().copied().collect());
    KeptResult { result: ActionResult::default(), closure, invocation: "i1".into(), stored: day(10) }
}

fn key() -> ActionKey {
    fresh(10).0.into()
}

#[tokio::test]
async fn a_result_comes_back_with_all_that_is_known_of_it() {
    let (_, results) = results();
    let (key, mut kept) = (key(), kept(&[fresh(10).0, fresh(20).0]));
    kept.result.metadata.worker = "w".into();
    results.put(&context(), key, kept.clone()).await.unwrap();
    assert_eq!(results.get(&context(), key).await.unwrap(), Some(kept));
    assert_eq!(results.get(&instance("other"), key).await.unwrap(), None);
    assert!(results.remove(&context(), key).await.unwrap());
    assert!(!results.remove(&context(), key).await.unwrap());
    assert_eq!(results.get(&context(), key).await.unwrap(), None);
}

#[tokio::test]
async fn what_does_not_decode_is_dropped() {
    let (store, results) = results();
    let (key, blob) = (key(), fresh(10).0);
    let places = [
        (RecordKind::Result, record::result_name(&context().instance, key)),
        (RecordKind::Producer, record::producer_name(blob.function(), blob.hash())),
    ];
    results.put(&context(), key, kept(&[blob])).await.unwrap();
    for (kind, name) in places {
        let content = "no record".into();
        store.put_records(&Context::internal(), vec![Record { kind, name, content }]).await.unwrap();
    }
    assert_eq!(results.get(&context(), key).await.unwrap(), None);
    assert_eq!(results.producers(blob).await.unwrap(), []);
    for (kind, name) in places {
        assert_eq!(store.record(&Context::glance(), kind, name).await.unwrap(), None, "{kind:?}");
    }
}

#[tokio::test]
async fn a_blob_is_known_by_those_whose_newest_results_need_it() {
    let (_, results) = results();
    let (first, second, blob) = (key(), key(), fresh(10).0);
    let empty = Digest::empty(DigestFunction::Sha256);
    results.put(&context(), first, kept(&[blob, empty])).await.unwrap();
    results.put(&instance("other"), second, kept(&[blob])).await.unwrap();
    let here = |name: &str, key| (InstanceName::parse(name).unwrap(), key);
    assert_eq!(results.producers(blob).await.unwrap(), [here("other", second), here("", first)]);
    assert_eq!(results.producers(empty).await.unwrap(), [], "nobody has to make the empty blob");
    let wrong_size = Digest::new(blob.function(), *blob.hash(), 11);
    assert_eq!(results.producers(wrong_size).await.unwrap(), []);
    // A newer result without it, and one that is gone.
    results.put(&instance("other"), second, kept(&[])).await.unwrap();
    assert_eq!(results.producers(blob).await.unwrap(), [here("", first)]);
    results.remove(&context(), first).await.unwrap();
    assert_eq!(results.producers(blob).await.unwrap(), []);
}

#[tokio::test]
async fn a_blob_that_results_need_is_found_by_its_hash() {
    let (_, results) = results();
    let blob = fresh(10).0;
    let (context, hash) = (context(), *blob.hash());
    let look = || results.lookup(&context, blob.function(), &hash);
    assert_eq!(look().await.unwrap(), None);
    results.put(&context, key(), kept(&[blob])).await.unwrap();
    assert_eq!(look().await.unwrap(), Some(blob));
}

#[tokio::test]
async fn a_purge_takes_what_is_selected_and_nothing_else() {
    let (one, other, blob) = (key(), key(), fresh(10).0);
    let selections = [
        (Selection::Action(one), vec![0, 1]),
        (Selection::Instance(InstanceName::parse("team").unwrap()), vec![1]),
        (Selection::StoredBefore(day(2)), vec![0]),
        (Selection::StoredBefore(day(3)), vec![0, 1]),
        (Selection::Worker("w2".into()), vec![2]),
        (Selection::Invocation("i2".into()), vec![1]),
        (Selection::Needing(blob), vec![0, 2]),
        (Selection::Needing(fresh(10).0), vec![]),
    ];
    for (selection, expected) in selections {
        let (_, results) = results();
        let all = [
            (instance(""), one, kept(&[blob]), 1, "w1", "i1"),
            (instance("team"), one, kept(&[]), 2, "w1", "i2"),
            (instance(""), other, kept(&[fresh(1).0, blob]), 3, "w2", "i1"),
        ];
        for (context, key, mut kept, stored, worker, invocation) in all.clone() {
            (kept.stored, kept.invocation) = (day(stored), invocation.into());
            kept.result.metadata.worker = worker.into();
            results.put(&context, key, kept).await.unwrap();
        }
        assert_eq!(results.count(&selection).await.unwrap(), expected.len() as u64, "{selection:?}");
        assert_eq!(results.purge(&selection).await.unwrap(), expected.len() as u64, "{selection:?}");
        for (index, (context, key, ..)) in all.into_iter().enumerate() {
            let there = results.get(&context, key).await.unwrap().is_some();
            assert_eq!(there, !expected.contains(&index), "{selection:?}: result {index}");
        }
    }
}

/// Look-ups in all.
const LOOK_UPS: u64 = 10_000;
const ACTIONS: usize = 100;
const BLOBS: usize = 60;

/// Results over few blobs, so that they lose and get them all the time.
struct Market {
    blobs: Arc<Forgetful>,
    results: Arc<Results>,
    actions: Completeness,
    keys: Vec<ActionKey>,
    contents: Vec<(Digest, bytes::Bytes)>,
    looked_up: AtomicU64,
    served: AtomicU64,
    over: AtomicBool,
}

impl Market {
    fn new() -> Self {
        let codec = Arc::new(TableCodec::default());
        let blobs = Arc::new(Forgetful::new(MemoryStore::new(1 << 30)));
        let results = Arc::new(Results::new(MemoryStore::new(1 << 30), codec.clone()));
        let actions = Completeness::new(results.clone(), blobs.clone(), codec);
        Self {
            blobs,
            results,
            actions,
            keys: (0..ACTIONS).map(|_| key()).collect(),
            contents: (0..BLOBS).map(|_| fresh(50)).collect(),
            looked_up: AtomicU64::new(0),
            served: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Uploads three blobs and a result that names them.
    async fn build(&self, random: &mut Random) {
        let mut result = ActionResult::default();
        for _ in 0..3 {
            let (digest, bytes) = self.contents[below(random, BLOBS)].clone();
            self.blobs.write_bytes(&context(), digest, bytes).await.unwrap();
            result.files.push(OutputFile {
                path: digest.hex(),
                digest,
                is_executable: false,
                contents: Default::default(),
                properties: None,
            });
        }
        let key = self.keys[below(random, ACTIONS)];
        let context = Context { promise: Promise::Glance, ..context() };
        self.actions.put(&context, key, result).await.unwrap();
    }

    /// Looks a result up as an invocation of its own. What is served can be read.
    async fn look_up(&self, random: &mut Random) {
        let invocation = self.looked_up.fetch_add(1, Ordering::Relaxed).to_string();
        let request = RequestMetadata { tool_invocation_id: invocation.clone(), ..Default::default() };
        let context = Context { request: Arc::new(request), ..context() };
        let found = self.actions.get(&context, self.keys[below(random, ACTIONS)]).await.unwrap();
        if let Some(result) = found {
            self.served.fetch_add(1, Ordering::Relaxed);
            for digest in result.named_blobs().iter() {
                tokio::task::yield_now().await;
                let read = self.blobs.read_all(&context, digest, 1000).await;
                assert!(read.is_ok(), "a result was served that needs `{digest}`, which is gone");
            }
        }
        self.blobs.end(&invocation);
    }

    /// Whether enough results were served, and enough were found to lack blobs.
    fn saw_both(&self) -> bool {
        self.served.load(Ordering::Relaxed) > 100 && self.actions.stats().incomplete > 100
    }

    async fn evict_and_purge(&self, random: &mut Random) {
        let held = self.blobs.held();
        if !held.is_empty() {
            self.blobs.evict(held[below(random, held.len())]);
        }
        if below(random, 50) == 0 {
            let (digest, _) = self.contents[below(random, BLOBS)];
            self.results.purge(&Selection::Needing(digest)).await.unwrap();
        }
    }
}

fn below(random: &mut Random, limit: usize) -> usize {
    (random.number() % limit as u64) as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_look_up_is_ever_served_what_cannot_be_used() {
    let market = Arc::new(Market::new());
    let mut tasks = Vec::new();
    for kind in 0..8 {
        let market = market.clone();
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new();
            while !market.over.load(Ordering::Relaxed) {
                match kind {
                    0 | 1 => market.build(&mut random).await,
                    2 | 3 => market.evict_and_purge(&mut random).await,
                    _ if market.looked_up.load(Ordering::Relaxed) < LOOK_UPS || !market.saw_both() => {
                        market.look_up(&mut random).await
                    }
                    _ => market.over.store(true, Ordering::Relaxed),
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for ended in join_all(tasks).await {
        ended.unwrap();
    }
    let (served, stats) = (market.served.load(Ordering::Relaxed), market.actions.stats());
    assert!(served > 100 && stats.incomplete > 100, "{served} of {LOOK_UPS} look-ups were served: {stats:?}");
}
