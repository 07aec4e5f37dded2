//! What was promised: hard while an invocation runs, soft for the rest of the lease, then free.

use crate::fixture::{
    HeldClock, MIB, balanced, context, fetch, flip, fresh, held, invocation, is_present, on_disk, open_with,
    put, record_place,
};
use bytes::Bytes;
use mortar_model::{
    BlobStore, BlobStoreExt, Clock, Context, Digest, DigestSet, Kind, Range, Result, context::Promise,
};
use mortar_store::{DiskStore, LeaseTerms, Policy, Record, RecordKind, Records, StoreStats};
use mortar_testkit::conformance::Random;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Barrier;

const SIZE: u64 = 16 * MIB;
const MINUTE: u64 = 60;
const GRACE: u64 = 10 * MINUTE;
const LEASE: u64 = 180 * MINUTE;
/// A record in a segment, and a file.
const LENGTHS: [usize; 2] = [100_000, 500_000];

async fn write(store: &DiskStore, context: &Context, length: usize) -> Result<Digest> {
    let (digest, bytes) = fresh(length);
    store.write_bytes(context, digest, bytes).await.map(|()| digest)
}

/// Writes as much as there is room for beside `left` bytes.
async fn fill(store: &DiskStore, context: &Context, length: usize, left: u64) -> Vec<Digest> {
    let mut written = Vec::new();
    while store.stats().bytes + left + length as u64 * 2 < SIZE {
        written.push(write(store, context, length).await.unwrap());
    }
    written
}

async fn all_present(store: &DiskStore, digests: &[Digest]) -> bool {
    let glance = Context { promise: Promise::Glance, ..context() };
    let digests: DigestSet = digests.iter().copied().collect();
    store.find_missing(&glance, &digests).await.unwrap().is_empty()
}

fn expect_refused(error: &mortar_model::Error) {
    assert!(matches!(error.kind(), Kind::ResourceExhausted { retry_after: Some(_), .. }), "{error}");
}

#[tokio::test]
async fn what_a_running_invocation_counts_on_stays_though_writes_are_refused() {
    for length in LENGTHS {
        let directory = tempfile::tempdir().unwrap();
        let clock = HeldClock::new();
        let store = open_with(directory.path(), SIZE, held(&clock)).await;
        let build = invocation("a build");
        let promised = fill(&store, &build, length, MIB).await;
        let mut refused = 0;
        for _ in 0..3 {
            // Its calls keep it running.
            clock.advance(GRACE - MINUTE);
            assert!(
                store
                    .find_missing(&build, &promised[..1].iter().copied().collect())
                    .await
                    .unwrap()
                    .is_empty()
            );
            expect_refused(&write(&store, &build, 2_000_000).await.unwrap_err());
            refused += 1;
            assert!(all_present(&store, &promised).await);
        }
        let stats = store.stats();
        assert!(refused > 0 && stats.refused == refused, "{refused} {stats:?}");
        assert_eq!((stats.evictions, stats.shed, stats.lease_violations), (0, 0, 0), "{stats:?}");
        assert_eq!(stats.invocations, 1);

        clock.advance(GRACE + MINUTE);
        write(&store, &context(), 2_000_000).await.expect("the invocation has ended");
        let stats = store.stats();
        assert!(stats.shed > 0 && stats.invocations == 0, "{stats:?}");
        assert!(!all_present(&store, &promised).await);
    }
}

#[tokio::test]
async fn other_things_go_before_what_is_hard() {
    for length in LENGTHS {
        let directory = tempfile::tempdir().unwrap();
        let clock = HeldClock::new();
        let store = open_with(directory.path(), SIZE, held(&clock)).await;
        let build = invocation("a build");
        let mut promised = Vec::new();
        for _ in 0..5_000_000 / length {
            promised.push(write(&store, &build, length).await.unwrap());
            // What lies between them, used later, goes all the same.
            clock.advance(MINUTE / 4);
            write(&store, &context(), length).await.unwrap();
        }
        for _ in 0..20_000_000 / length {
            assert!(
                store
                    .find_missing(&build, &promised[..1].iter().copied().collect())
                    .await
                    .unwrap()
                    .is_empty()
            );
            write(&store, &context(), length).await.unwrap();
            assert!(on_disk(directory.path()) <= SIZE);
        }
        assert!(all_present(&store, &promised).await);
        let stats = store.stats();
        assert!(stats.refused == 0 && stats.shed > 0 && stats.lease_violations == 0, "{stats:?}");
    }
}

#[tokio::test]
async fn soft_leases_are_shed_oldest_first_and_only_where_a_write_would_be_refused() {
    for length in LENGTHS {
        let directory = tempfile::tempdir().unwrap();
        let clock = HeldClock::new();
        let store = open_with(directory.path(), SIZE, held(&clock)).await;
        let mut aged = Vec::new();
        for _ in 0..3 {
            let mut group = Vec::new();
            for _ in 0..4_500_000 / length {
                group.push(put(&*store, length).await.0);
            }
            aged.push(group);
            clock.advance(MINUTE);
        }
        assert_eq!(store.stats().shed, 0, "there is room for all");
        put(&*store, 3_000_000).await;
        let stats = store.stats();
        assert!(stats.shed > 0 && stats.shed == stats.evictions && stats.refused == 0, "{stats:?}");
        assert!(!all_present(&store, &aged[0]).await);
        assert!(all_present(&store, &aged[1]).await && all_present(&store, &aged[2]).await);
    }
}

#[tokio::test]
async fn what_nobody_counts_on_any_more_goes_before_what_is_leased() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let old = put(&*store, 5_000_000).await.0;
    clock.advance(LEASE + MINUTE);
    let leased = put(&*store, 5_000_000).await.0;
    put(&*store, 7_000_000).await;
    assert!(is_present(&*store, leased).await && !is_present(&*store, old).await);
    let stats = store.stats();
    assert_eq!((stats.evictions, stats.shed), (1, 0), "{stats:?}");
}

#[tokio::test]
async fn invocations_that_begin_together_share_what_bits_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let mut promised = Vec::new();
    for number in 0..20 {
        promised.push(write(&store, &invocation(number), 600_000).await.unwrap());
    }
    assert_eq!(store.stats().invocations, 20);
    expect_refused(&write(&store, &context(), 5_000_000).await.unwrap_err());
    assert!(all_present(&store, &promised).await);
    // The last of those that share a bit goes on; so all of them do, and nobody else.
    clock.advance(GRACE - MINUTE);
    let last: DigestSet = promised[19..].iter().copied().collect();
    assert!(store.find_missing(&invocation(19), &last).await.unwrap().is_empty());
    clock.advance(2 * MINUTE);
    write(&store, &context(), 7_000_000).await.unwrap();
    assert!(all_present(&store, &promised[8..]).await);
    assert!(!all_present(&store, &promised[..8]).await);
    assert_eq!(store.stats().invocations, 1);
}

/// However many invocations overlap without end, what the early ones were promised may go some day.
#[tokio::test]
async fn invocations_that_never_cease_do_not_keep_everything() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let long = write(&store, &invocation("long"), 100_000).await.unwrap();
    let asked: DigestSet = [long].into_iter().collect();
    // Three a minute, so that some thirty run at any time; 30 MB in all.
    for number in 0..300 {
        write(&store, &invocation(number), 100_000).await.unwrap();
        assert!(store.find_missing(&invocation("long"), &asked).await.unwrap().is_empty());
        clock.advance(MINUTE / 3);
    }
    assert!(store.stats().evictions > 100, "{:?}", store.stats());
    assert_eq!((store.stats().refused, store.stats().lease_violations), (0, 0));
    assert!(all_present(&store, &[long]).await);
}

/// What is known of a blob that a running invocation counts on stays with it: its result, who made it, its chunks.
#[tokio::test]
async fn records_are_as_hard_as_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, held(&HeldClock::new())).await;
    let kinds = [RecordKind::Result, RecordKind::Producer, RecordKind::Recipe, RecordKind::Value];
    let records = |name: u8| kinds.map(|kind| Record { kind, name: [name; 32], content: "known".into() });
    store.put_records(&invocation("first"), records(1).into()).await.unwrap();
    store.put_records(&context(), records(2).into()).await.unwrap();
    // Nobody counted on these until somebody was told of them.
    for kind in kinds {
        store.promise_records(&invocation("second"), kind, &mut [[2; 32]].into_iter());
    }
    for _ in 0..400 {
        put(&*store, 100_000).await;
    }
    for kind in kinds {
        let there =
            async |name: u8| store.record(&Context::glance(), kind, [name; 32]).await.unwrap().is_some();
        assert!(there(1).await && there(2).await, "{kind:?}");
    }
    assert!(store.stats().evictions > 200, "{:?}", store.stats());
}

#[tokio::test]
async fn a_bit_that_is_given_again_frees_what_had_it_before() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let mut store = open_with(directory.path(), SIZE, held(&clock)).await;
    let before = write(&store, &invocation("before"), 6_000_000).await.unwrap();
    clock.advance(GRACE + MINUTE);
    // Makes room, and so ends what is idle.
    write(&store, &invocation("during"), 6_000_000).await.unwrap();
    write(&store, &context(), 3_500_000).await.unwrap();
    for restart in [false, true] {
        if restart {
            drop(store);
            store = open_with(directory.path(), SIZE, held(&clock)).await;
        }
        write(&store, &invocation(format!("after {restart}")), 3_000_000).await.unwrap();
    }
    assert!(!is_present(&*store, before).await);
    assert_eq!(store.stats().refused, 0);
}

#[tokio::test]
async fn leases_survive_a_restart_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let build = invocation("a build");
    let promised = fill(&store, &build, 500_000, MIB).await;
    drop(store);
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    assert_eq!(store.stats().invocations, 1);
    expect_refused(&write(&store, &context(), 2_000_000).await.unwrap_err());
    assert!(all_present(&store, &promised).await);
    clock.advance(GRACE + MINUTE);
    write(&store, &context(), 2_000_000).await.unwrap();
    assert!(store.stats().shed > 0);
}

#[tokio::test]
async fn a_glance_promises_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let store = open_with(directory.path(), SIZE, held(&clock)).await;
    let (glanced, bytes) = put(&*store, 5_000_000).await;
    clock.advance(LEASE + MINUTE);
    let leased = put(&*store, 5_000_000).await.0;
    let glance = Context { promise: Promise::Glance, ..invocation("a build") };
    assert!(store.find_missing(&glance, &DigestSet::from_iter([glanced])).await.unwrap().is_empty());
    assert_eq!(store.read(&glance, glanced, Range::ALL).await.unwrap().into_bytes().await.unwrap(), bytes);
    assert_eq!(store.stats().invocations, 0);
    put(&*store, 7_000_000).await;
    assert!(!is_present(&*store, glanced).await && is_present(&*store, leased).await);
}

#[tokio::test]
async fn a_damaged_thing_that_an_invocation_counts_on_is_a_violation() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    for (context, violations) in [(context(), 0), (invocation("a build"), 1)] {
        let (digest, bytes) = fresh(5000);
        store.write_bytes(&context, digest, bytes.clone()).await.unwrap();
        let (path, at) = record_place(directory.path(), &bytes).unwrap();
        flip(&path, at, 1);
        fetch(&*store, digest, Range::ALL).await.unwrap_err();
        assert_eq!(store.stats().lease_violations, violations);
    }
}

/// A clock whose wall is set as one likes.
struct Unsteady {
    held: Arc<HeldClock>,
    offset: AtomicI64,
}

impl Clock for Unsteady {
    fn now(&self) -> Instant {
        self.held.now()
    }

    fn wall(&self) -> SystemTime {
        let (wall, offset) = (self.held.wall(), self.offset.load(Ordering::SeqCst));
        let by = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { wall.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH) } else { wall + by }
    }
}

#[tokio::test]
async fn no_jump_of_the_wall_clock_ends_a_lease() {
    let years = 365 * 24 * 60 * MINUTE as i64;
    for (jump, restart) in
        [(70 * years, false), (-50 * years, false), (70 * years, true), (-50 * years, true)]
    {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(Unsteady { held: HeldClock::new(), offset: AtomicI64::new(0) });
        let policy = || Policy { clock: clock.clone(), ..Policy::default() };
        let mut store = open_with(directory.path(), SIZE, policy()).await;
        let old = put(&*store, 3_000_000).await.0;
        clock.held.advance(LEASE + MINUTE);
        let hard = write(&store, &invocation("a build"), 3_000_000).await.unwrap();
        let soft = put(&*store, 3_000_000).await.0;
        for back_and_forth in [jump, 0] {
            clock.offset.store(back_and_forth, Ordering::SeqCst);
            if restart {
                drop(store);
                store = open_with(directory.path(), SIZE, policy()).await;
            }
            clock.held.advance(MINUTE);
        }
        put(&*store, 4_000_000).await;
        put(&*store, 3_000_000).await;
        assert!(!is_present(&*store, old).await, "{jump} {restart}");
        assert!(is_present(&*store, hard).await && is_present(&*store, soft).await, "{jump} {restart}");
        assert_eq!((store.stats().shed, store.stats().evictions), (0, 1), "{jump} {restart}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_all_that_running_invocations_count_on_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    let clock = HeldClock::new();
    let policy = Policy {
        leases: LeaseTerms { grace: Duration::from_secs(2 * MINUTE), ..LeaseTerms::default() },
        ..held(&clock)
    };
    let store = open_with(directory.path(), SIZE, policy).await;
    let barrier = Arc::new(Barrier::new(4));
    let builds =
        (0..4).map(|seed| tokio::spawn(build_on_and_on(store.clone(), clock.clone(), barrier.clone(), seed)));
    // One that fails ends all, which would wait for it.
    futures::future::try_join_all(builds).await.unwrap();
    let stats: StoreStats = store.stats();
    assert_eq!((stats.lease_violations, stats.quarantined), (0, 0), "{stats:?}");
    assert!(stats.evictions > 100 && stats.reclaimed > 0, "{stats:?}");
    balanced(&store, directory.path()).await;
    assert!(on_disk(directory.path()) <= SIZE);
}

/// Builds of some three MiB each, one after the other; four at a time fit, but not beside those before.
async fn build_on_and_on(store: Arc<DiskStore>, clock: Arc<HeldClock>, barrier: Arc<Barrier>, seed: u64) {
    let mut random = Random::seeded(seed);
    for number in 0..12 {
        let build = invocation(format!("{seed}-{number}"));
        let mut promised: Vec<(Digest, Bytes)> = Vec::new();
        for _ in 0..20 {
            let length = [2000, 50_000, 120_000, 400_000][random.number() as usize % 4];
            let (digest, bytes) = random.blob(mortar_model::DigestFunction::Sha256, length);
            match store.write_bytes(&build, digest, bytes.clone()).await {
                Ok(()) => promised.push((digest, bytes)),
                Err(error) => expect_refused(&error),
            }
            let Some((digest, bytes)) = promised.get(random.number() as usize % 20) else { continue };
            let read = store.read(&build, *digest, Range::ALL).await.unwrap().into_bytes().await.unwrap();
            assert_eq!(read, *bytes);
        }
        let digests: DigestSet = promised.iter().map(|(digest, _)| *digest).collect();
        assert!(store.find_missing(&build, &digests).await.unwrap().is_empty());
        for (digest, bytes) in promised {
            let read = store.read(&build, digest, Range::ALL).await.unwrap().into_bytes().await.unwrap();
            assert_eq!(read, bytes);
        }
        // Time goes on between builds alone, lest one ends that only waits for its turn.
        if barrier.wait().await.is_leader() {
            clock.advance(3 * MINUTE);
        }
        barrier.wait().await;
    }
}
