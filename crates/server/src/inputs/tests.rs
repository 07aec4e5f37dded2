//! Inputs that come one after the other, in every order that matters; and all the ways in which waiting ends.

use super::{Arrivals, Complete, Following, Told, Walk};
use async_trait::async_trait;
use bytes::Bytes;
use mortar_model::{
    ActionResult, Blob, BlobStore, BlobStoreExt, Context, Digest, DigestFunction::Sha256, DigestSet,
    Directory, DirectoryNode, Error, ExecuteRequest, Executor, FileNode, InputsFollow, Kind, Outcome,
    Progress, Range, Result, SystemClock, Termination,
};
use mortar_store::MemoryStore;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Counts, and remembers what it was told of inputs that follow.
#[derive(Default)]
struct Counting {
    executions: AtomicUsize,
    contexts: Mutex<Vec<Option<InputsFollow>>>,
}

#[async_trait]
impl Executor for Counting {
    async fn execute(&self, context: &Context, _: ExecuteRequest, _: &dyn Progress) -> Result<Outcome> {
        self.executions.fetch_add(1, Ordering::SeqCst);
        self.contexts.lock().push(context.inputs_follow.clone());
        Ok(Outcome {
            result: ActionResult::default(),
            cached: false,
            termination: Termination::Exited,
            message: String::new(),
            server_logs: Vec::new(),
        })
    }
}

/// An action whose root holds a file, and a directory with another; and where it is executed.
struct House {
    blobs: Arc<Told<dyn BlobStore>>,
    beneath: Arc<dyn BlobStore>,
    arrivals: Arrivals,
    following: Arc<Following>,
    at_once: Arc<Counting>,
    later: Arc<Counting>,
    action: Digest,
    parts: BTreeMap<&'static str, (Digest, Bytes)>,
}

const PARTS: [&str; 6] = ["action", "command", "root", "near", "below", "deep"];

impl House {
    fn new() -> Self {
        let arrivals = Arrivals::default();
        let store: Arc<dyn BlobStore> = MemoryStore::new(64 << 20);
        let blobs = Arc::new(Told::new(store.clone(), &arrivals));
        let (at_once, later) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
        let following = Arc::new(Following {
            blobs: blobs.clone(),
            arrivals: arrivals.clone(),
            complete: Arc::new(Complete::new(Arc::new(SystemClock))),
            next: at_once.clone(),
            after_waiting: later.clone(),
        });
        let (near, deep) = (Bytes::from("near"), Bytes::from("deep"));
        let below = directory(&[("deep", &deep)], &[]);
        let root = directory(&[("near", &near)], &[("below", &below)]);
        let command = Bytes::from("any command");
        let action = mortar_wire::encode_action(&mortar_model::Action {
            command_digest: digest(&command),
            input_root_digest: digest(&root),
            timeout: None,
            do_not_cache: false,
            platform: None,
        });
        let parts = [action.clone(), command, root, near, below, deep];
        let parts = PARTS.into_iter().zip(parts.map(|bytes| (digest(&bytes), bytes))).collect();
        Self { blobs, beneath: store, arrivals, following, at_once, later, action: digest(&action), parts }
    }

    async fn bring(&self, part: &str) {
        let (digest, bytes) = self.parts[part].clone();
        self.blobs.write_bytes(&Context::internal(), digest, bytes).await.unwrap();
    }

    /// Executes in the background.
    fn begin(&self, patience: Duration) -> tokio::task::JoinHandle<Result<Outcome>> {
        let (following, action_digest) = (self.following.clone(), self.action);
        tokio::spawn(async move {
            let inputs_follow = Some(InputsFollow::new("session", patience).unwrap());
            let context = Context { inputs_follow, ..Context::internal() };
            let request = ExecuteRequest { action_digest, skip_cache_lookup: false, priority: 0 };
            following.execute(&context, request, &()).await
        })
    }

    fn executions(&self) -> (usize, usize) {
        (self.at_once.executions.load(Ordering::SeqCst), self.later.executions.load(Ordering::SeqCst))
    }

    /// Waits until exactly these are waited for.
    async fn until_awaited(&self, parts: &[&str]) {
        until(|| {
            let awaits = |part: &str| self.arrivals.awaits(&self.parts[part].0);
            PARTS.iter().all(|part| awaits(part) == parts.contains(part))
        })
        .await;
    }

    fn assert_nothing_left(&self) {
        assert_eq!((self.arrivals.waiters(), self.arrivals.awaited()), (0, (0, 0)));
    }

    fn missing_of(&self, error: &Error) -> Vec<&'static str> {
        let Kind::MissingBlobs { missing } = error.kind() else { panic!("{error}") };
        let name = |digest| PARTS.into_iter().find(|part| self.parts[part].0 == digest).unwrap();
        missing.iter().map(|digest| name(*digest)).collect()
    }
}

const LONG: Duration = Duration::from_secs(60);

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("within a minute");
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Sha256, bytes)
}

fn directory(files: &[(&str, &Bytes)], directories: &[(&str, &Bytes)]) -> Bytes {
    let files = files.iter().map(|(name, bytes)| FileNode {
        name: (*name).into(),
        digest: digest(bytes),
        is_executable: false,
        properties: None,
    });
    let directories =
        directories.iter().map(|(name, bytes)| DirectoryNode { name: (*name).into(), digest: digest(bytes) });
    let directory =
        Directory { files: files.collect(), directories: directories.collect(), ..Directory::default() };
    mortar_wire::encode_directory(&directory)
}

/// What is missing and can be known of, when only these are there.
fn reached(there: &[&str]) -> Vec<&'static str> {
    let below: [(&str, &[&'static str]); 3] =
        [("action", &["command", "root"]), ("root", &["near", "below"]), ("below", &["deep"])];
    let (mut missing, mut pending) = (Vec::new(), vec!["action"]);
    while let Some(part) = pending.pop() {
        match there.contains(&part) {
            false => missing.push(part),
            true => {
                pending.extend(below.iter().filter(|(above, _)| *above == part).flat_map(|(_, parts)| *parts))
            }
        }
    }
    missing.sort_unstable();
    missing
}

#[tokio::test]
async fn what_is_not_there_in_time_is_told_exactly() {
    for subset in 0..1_u32 << PARTS.len() {
        let house = House::new();
        let there: Vec<_> =
            (0..PARTS.len()).filter(|bit| subset >> bit & 1 == 1).map(|bit| PARTS[bit]).collect();
        for part in &there {
            house.bring(part).await;
        }
        let ended = house.begin(Duration::from_millis(1)).await.unwrap();
        let expected = reached(&there);
        match ended {
            Ok(_) => assert!(expected.is_empty(), "{there:?}"),
            Err(error) => {
                let mut missing = house.missing_of(&error);
                missing.sort_unstable();
                assert_eq!(missing, expected, "{there:?}");
                assert!(error.get_hint().is_some_and(|hint| hint.contains("`session`")), "{error}");
            }
        }
        assert_eq!(house.executions(), (usize::from(expected.is_empty()), 0));
        house.assert_nothing_left();
    }
}

/// All orders of so many things (Heap's algorithm).
fn orders(of: usize) -> Vec<Vec<usize>> {
    fn go(things: &mut Vec<usize>, first: usize, orders: &mut Vec<Vec<usize>>) {
        if first <= 1 {
            return orders.push(things.clone());
        }
        for index in 0..first {
            go(things, first - 1, orders);
            things.swap(if first.is_multiple_of(2) { index } else { 0 }, first - 1);
        }
    }
    let mut orders = Vec::new();
    go(&mut (0..of).collect(), of, &mut orders);
    orders
}

#[tokio::test]
async fn inputs_may_come_in_any_order() {
    let orders = orders(PARTS.len());
    assert_eq!(orders.len(), 720);
    for order in orders {
        let house = House::new();
        let execution = house.begin(LONG);
        let mut there = Vec::new();
        for index in order {
            house.until_awaited(&reached(&there)).await;
            assert_eq!(house.executions(), (0, 0));
            house.bring(PARTS[index]).await;
            there.push(PARTS[index]);
        }
        execution.await.unwrap().unwrap();
        assert_eq!(house.executions(), (0, 1), "{there:?}");
        assert_eq!(*house.later.contexts.lock(), [None], "nobody waits twice");
        house.assert_nothing_left();
    }
}

#[tokio::test]
async fn what_comes_at_once_is_not_missed() {
    for _ in 0..200 {
        let house = House::new();
        let execution = house.begin(LONG);
        let bringing = PARTS.map(|part| house.bring(part));
        futures::future::join_all(bringing).await;
        execution.await.unwrap().unwrap();
        house.assert_nothing_left();
    }
}

#[tokio::test]
async fn who_leaves_leaves_nothing_behind_and_disturbs_nobody() {
    let house = House::new();
    for part in ["action", "command", "root"] {
        house.bring(part).await;
    }
    let (leaves, stays) = (house.begin(LONG), house.begin(LONG));
    until(|| house.arrivals.awaited() == (4, 4)).await;
    leaves.abort();
    until(|| house.arrivals.waiters() == 1).await;
    assert_eq!(house.arrivals.awaited(), (2, 2));
    for part in ["near", "below", "deep"] {
        house.bring(part).await;
    }
    stays.await.unwrap().unwrap();
    assert_eq!(house.executions(), (0, 1));
    house.assert_nothing_left();
}

#[tokio::test]
async fn a_server_that_stops_waits_no_longer() {
    let house = House::new();
    let waits = house.begin(LONG);
    house.until_awaited(&["action"]).await;
    house.arrivals.close();
    let error = waits.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    let error = house.begin(LONG).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable { .. }), "{error}");
    house.assert_nothing_left();
}

#[tokio::test]
async fn too_many_waiters_and_too_much_to_wait_for_are_answered_at_once() {
    let house = House::new();
    let waiters: Vec<_> = std::iter::from_fn(|| house.arrivals.wait()).collect();
    assert_eq!(waiters.len(), 10_000);
    assert_eq!(house.missing_of(&house.begin(LONG).await.unwrap().unwrap_err()), ["action"]);
    drop(waiters);
    house.assert_nothing_left();

    let mut waiting = house.arrivals.wait().unwrap();
    let many = |from: u32, to: u32| (from..to).map(|n| digest(&n.to_le_bytes())).collect::<Vec<_>>();
    assert!(
        waiting.add(many(0, 1_000), 250_000).is_some() && waiting.add(many(1_000, 1_001), 250_001).is_none()
    );
    let error = house.begin(LONG).await.unwrap().unwrap_err();
    assert_eq!(house.missing_of(&error), ["action"]);
    assert!(error.get_hint().is_none(), "it was not waited for: {error}");
    drop(waiting);
    house.assert_nothing_left();
}

#[tokio::test]
async fn what_came_without_being_told_counts_when_the_time_is_over() {
    let house = House::new();
    let execution = house.begin(Duration::from_millis(50));
    house.until_awaited(&["action"]).await;
    for (digest, bytes) in house.parts.values() {
        house.beneath.write_bytes(&Context::internal(), *digest, bytes.clone()).await.unwrap();
    }
    execution.await.unwrap().unwrap();
    assert_eq!(house.executions(), (0, 1));
    house.assert_nothing_left();
}

/// Counts the reads.
struct Reads(Arc<dyn BlobStore>, AtomicUsize);

#[async_trait]
impl BlobStore for Reads {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.read(context, digest, range).await
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.0.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.0.find_missing(context, digests).await
    }
}

#[tokio::test]
async fn a_tree_that_was_whole_a_moment_ago_is_not_walked_again() {
    let house = House::new();
    for part in PARTS {
        house.bring(part).await;
    }
    let reads = Reads(house.beneath.clone(), AtomicUsize::new(0));
    let (context, complete) = (Context::internal(), Complete::new(Arc::new(SystemClock)));
    for expected in [3, 4] {
        let mut walk = Walk::new(&reads, &context, &complete).with_action(house.action);
        walk.go_on().await.unwrap();
        assert!(walk.error().is_none());
        assert_eq!(reads.1.load(Ordering::SeqCst), expected, "the Action alone is read again");
    }
}

#[tokio::test]
async fn a_directory_that_is_a_file_as_well_is_walked() {
    let house = House::new();
    let (file, _) = house.parts["deep"];
    let below = directory(&[("deep", &Bytes::from("deep"))], &[]);
    // As a file it is named, and found, a level above.
    let middle = directory(&[], &[("below", &below)]);
    let root = directory(&[("file", &below)], &[("middle", &middle)]);
    for bytes in [&below, &middle, &root] {
        house.blobs.write_bytes(&Context::internal(), digest(bytes), bytes.clone()).await.unwrap();
    }
    let (context, complete) = (Context::internal(), Complete::new(Arc::new(SystemClock)));
    let mut walk = Walk::new(&*house.blobs, &context, &complete).with_directory(digest(&root));
    walk.go_on().await.unwrap();
    assert_eq!(*walk.error().unwrap().kind(), Kind::MissingBlobs { missing: vec![file] });
}
