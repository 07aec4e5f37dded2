//! Lost blobs that are read, or asked for.

use super::*;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use mortar_model::HashIndex;
use std::sync::atomic::AtomicUsize;

#[tokio::test]
async fn a_lost_blob_is_made_again_when_it_is_read() {
    let house = House::new();
    house.build(&[], &["out"]).await;
    assert_eq!(house.read("out").await.unwrap(), "out");
    assert_eq!(house.runs(), 0, "nothing was lost");
    house.lose(&["out"]);
    assert_eq!(house.read("out").await.unwrap(), "out");
    let part = Range { offset: 1, limit: Some(1) };
    house.lose(&["out"]);
    let read = house.store.read(&client(), digest_of("out"), part).await.unwrap();
    assert_eq!(read.into_bytes().await.unwrap(), "u");
    assert_eq!(house.runs(), 2);
    assert_eq!(house.stats(), RewindStats { attempted: 2, made: 2, ..RewindStats::default() });
}

#[tokio::test]
async fn a_damaged_blob_is_made_again_when_it_is_read() {
    let house = House::new();
    house.build(&[], &["out"]).await;
    house.mill.blobs.damage(digest_of("out"));
    assert_eq!(house.read("out").await.unwrap(), "out");
    assert_eq!(house.runs(), 1);
}

#[tokio::test]
async fn those_who_want_the_truth_get_it() {
    let house = House::new();
    house.build(&[], &["out"]).await;
    house.lose(&["out"]);
    let told = Context::internal();
    assert!(house.store.read(&told, digest_of("out"), Range::ALL).await.unwrap_err().is_not_found());
    assert_eq!(house.missing(&told, &["out"]).await, [digest_of("out")]);
    let hash = *digest_of("out").hash();
    assert_eq!(house.store.lookup(&told, FUNCTION, &hash).await.unwrap(), None);
    assert_eq!(house.stats(), RewindStats::default());
}

#[tokio::test]
async fn a_blob_that_nobody_made_is_not_found() {
    let house = House::new();
    let error = house.read("unheard of").await.unwrap_err();
    assert!(error.is_not_found() && error.get_hint().is_none(), "{error}");
    assert_eq!(house.missing(&client(), &["unheard of"]).await, [digest_of("unheard of")]);
    assert_eq!(house.stats(), RewindStats::default());
}

#[tokio::test]
async fn what_a_producer_lacks_is_made_before() {
    let house = House::new();
    let source = house.keep("source").await;
    house.build(&[source], &["a", "a2"]).await;
    house.build(&[digest_of("a"), digest_of("a2"), source], &["b"]).await;
    house.build(&[digest_of("b"), digest_of("a")], &["c"]).await;
    house.lose(&["a", "a2", "b", "c"]);
    assert_eq!(house.read("c").await.unwrap(), "c");
    // Each of the later two is tried, made whole, and tried again; the two blobs of the first are made at once.
    assert_eq!(house.runs(), 1 + 2 + 2);
    assert_eq!(house.stats().attempted, 3);
    assert!(house.missing(&Context::internal(), &["a", "a2", "b", "c"]).await.is_empty());
}

#[tokio::test]
async fn so_many_actions_in_a_row_and_no_more() {
    const NAMES: [&str; 17] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
    for (length, is_made) in [(16, true), (17, false)] {
        let house = House::new();
        let mut before = vec![];
        for name in &NAMES[..length] {
            house.build(&before, &[name]).await;
            before = vec![digest_of(name)];
        }
        house.lose(&NAMES[..length]);
        assert_eq!(house.read(NAMES[length - 1]).await.is_ok(), is_made, "{length} in a row");
        assert_eq!(house.stats().too_deep, u64::from(!is_made));
    }
}

#[tokio::test]
async fn demands_for_one_action_are_merged() {
    let house = House::new();
    house.build(&[], &["one", "two"]).await;
    house.lose(&["one", "two"]);
    house.mill.open.send_replace(false);
    let reads = join_all(["one", "two", "one", "two"].map(|name| house.read(name)));
    let open = async {
        while house.runs() == 0 {
            tokio::task::yield_now().await;
        }
        house.mill.open.send_replace(true);
    };
    let (reads, ()) = tokio::join!(reads, open);
    assert!(reads.iter().all(Result::is_ok), "{reads:?}");
    assert_eq!((house.runs(), house.stats().attempted), (1, 1));
}

#[tokio::test]
async fn a_demand_that_is_given_up_stops_the_run_and_another_one_begins_anew() {
    let house = House::new();
    house.build(&[], &["out"]).await;
    house.lose(&["out"]);
    house.mill.open.send_replace(false);
    let begun = async {
        while house.runs() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        read = house.read("out") => panic!("{read:?} while nothing can end"),
        () = begun => {}
    }
    assert_eq!(house.mill.given_up.load(Ordering::SeqCst), 1);
    house.mill.open.send_replace(true);
    assert_eq!(house.read("out").await.unwrap(), "out");
    assert_eq!(house.runs(), 2);
}

#[tokio::test]
async fn what_cannot_be_made_again_takes_its_result_along_and_is_told() {
    let change: [(fn(&mut Recipe), &str); 2] = [
        (|recipe| recipe.makes = vec!["something else"], "made something else"),
        (|recipe| recipe.exit_code = 3, "exit code 3"),
    ];
    for (change, why) in change {
        let house = House::new();
        let action = house.build(&[], &["out", "other"]).await;
        house.lose(&["out"]);
        house.change(action, |recipe| {
            recipe.makes = vec![];
            change(recipe);
        });
        let error = house.read("out").await.unwrap_err();
        let hint = error.get_hint().unwrap();
        assert!(error.is_not_found(), "{error}");
        for part in [&*digest_of("out").to_string(), &action.hex(), why, "bazel clean"] {
            assert!(hint.contains(part), "no `{part}` in: {hint}");
        }
        let kept = house.rewinder.0.parts.results.get(&Context::internal(), action.into()).await.unwrap();
        assert!(kept.is_none_or(|kept| !kept.closure.contains(&digest_of("out"))));
        // Nobody tries again.
        assert!(house.read("out").await.unwrap_err().get_hint().is_none());
        assert_eq!(house.missing(&client(), &["out"]).await, [digest_of("out")]);
        assert_eq!((house.runs(), house.stats().failed), (1, 1), "{why}");
    }
}

#[tokio::test]
async fn an_input_that_nobody_can_make_is_named() {
    let house = House::new();
    let source = house.keep("source").await;
    let first = house.build(&[source], &["middle"]).await;
    let second = house.build(&[digest_of("middle")], &["end"]).await;
    house.lose(&["source", "middle", "end"]);
    let error = house.read("end").await.unwrap_err();
    let hint = error.get_hint().unwrap();
    for part in [&*second.hex(), &first.hex(), &source.to_string(), "nobody here can make"] {
        assert!(hint.contains(part), "no `{part}` in: {hint}");
    }
    for action in [first, second] {
        assert!(!house.knows_result_of(action).await);
    }
}

#[tokio::test]
async fn an_action_whose_message_is_gone_is_not_run() {
    let house = House::new();
    let action = house.build(&[], &["out"]).await;
    house.lose(&["out"]);
    house.mill.blobs.lose(action);
    assert_eq!(house.missing(&client(), &["out"]).await, [digest_of("out")]);
    let error = house.read("out").await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("not here any more"), "{error}");
    assert_eq!(house.runs(), 0);
}

#[tokio::test]
async fn blobs_that_need_each_other_end_in_an_error() {
    let house = House::new();
    house.keep("x").await;
    house.build(&[digest_of("x")], &["y"]).await;
    house.build(&[digest_of("y")], &["x"]).await;
    house.lose(&["x", "y"]);
    let reads = join_all(["x", "y", "x"].map(|name| house.read(name))).await;
    assert!(reads.iter().all(|read| read.as_ref().is_err_and(Error::is_not_found)), "{reads:?}");
}

#[tokio::test]
async fn what_stands_in_the_way_for_now_costs_no_result() {
    let house = House::new();
    let action = house.build(&[], &["out"]).await;
    house.lose(&["out"]);
    let unavailable = Kind::Unavailable { message: "the queue is closed".into(), retry_after: None };
    house.change(action, |recipe| recipe.refuses = Some(unavailable));
    for staffed in [true, false] {
        house.mill.staffed.store(staffed, Ordering::SeqCst);
        let error = house.read("out").await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Unavailable { retry_after: Some(_), .. }), "{error}");
        assert!(error.to_string().contains(&digest_of("out").to_string()), "{error}");
    }
    assert!(house.knows_result_of(action).await);
    // Without workers it counts as missing: a client that has it sends it.
    assert_eq!(house.missing(&client(), &["out"]).await, [digest_of("out")]);
}

#[tokio::test]
async fn a_search_counts_what_will_be_made_again_as_present_and_waits_for_nothing() {
    let house = House::new();
    house.build(&[], &["out", "other"]).await;
    house.lose(&["out"]);
    house.mill.open.send_replace(false);
    assert_eq!(house.missing(&client(), &["out", "other", "third"]).await, [digest_of("third")]);
    let hash = *digest_of("out").hash();
    assert_eq!(house.store.lookup(&client(), FUNCTION, &hash).await.unwrap(), Some(digest_of("out")));
    house.mill.open.send_replace(true);
    assert_eq!(house.read("out").await.unwrap(), "out");
    assert_eq!(house.runs(), 1, "it was begun by the search, and the read joined");
}

/// A store whose streams break after so many pieces, once; then it misses the blob.
struct Brittle {
    inner: Arc<Forgetful>,
    passes: AtomicUsize,
}

#[async_trait]
impl BlobStore for Brittle {
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let passes = self.passes.swap(usize::MAX, Ordering::SeqCst);
        let whole = self.inner.read(context, digest, range).await?.into_bytes().await?;
        let length = whole.len() as u64;
        let pieces = (0..whole.len()).map(move |at| Ok(whole.slice(at..=at)));
        if passes == usize::MAX {
            return Ok(Blob::stream(length, stream::iter(pieces)));
        }
        self.inner.lose(digest);
        let broken = Err(Error::new(Kind::DataLoss { message: "a flipped bit".into() }));
        Ok(Blob::stream(length, stream::iter(pieces.take(passes).chain([broken]))))
    }

    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        self.inner.write(context, digest, blob).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.inner.find_missing(context, digests).await
    }
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_if_nothing_has_passed() {
    for passes in [0, 2] {
        let house = House::new();
        house.build(&[], &["content"]).await;
        let Parts { index, results, executor, staff, .. } = &house.rewinder.0.parts;
        let rewinder = Rewinder::new(Parts {
            blobs: Arc::new(Brittle { inner: house.mill.blobs.clone(), passes: AtomicUsize::new(passes) }),
            index: index.clone(),
            results: results.clone(),
            executor: executor.clone(),
            staff: staff.clone(),
        });
        let store = Rewinding::new(rewinder, house.mill.blobs.clone());
        let context = client();
        let read = || store.read(&context, digest_of("content"), Range::ALL);
        let mut first = read().await.unwrap().into_stream();
        let mut seen = Vec::new();
        let end = loop {
            match first.try_next().await {
                Ok(Some(piece)) => seen.extend_from_slice(&piece),
                end => break end,
            }
        };
        match passes {
            0 => assert!(end.is_ok() && seen == b"content", "{end:?}"),
            _ => {
                let error = end.unwrap_err();
                assert!(matches!(error.kind(), Kind::Aborted { .. }) && seen == b"co", "{error}");
                assert!(first.next().await.is_none());
            }
        }
        assert_eq!(read().await.unwrap().into_bytes().await.unwrap(), "content");
        assert_eq!(house.runs(), 1);
    }
}
