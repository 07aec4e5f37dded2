//! Actions whose inputs were lost.

use super::*;

async fn execute(house: &House, action: Digest) -> Result<Outcome> {
    house.rewinder.execute(&Context::internal(), request(action), &()).await
}

#[tokio::test]
async fn lost_inputs_are_made_again() {
    let house = House::new();
    house.build(&[], &["a"]).await;
    house.build(&[], &["b"]).await;
    let action = house.mill.declare(&[digest_of("a"), digest_of("b")], &["c"]).await;
    house.lose(&["a", "b"]);
    assert!(execute(&house, action).await.unwrap().result.is_success());
    assert_eq!(house.stats(), RewindStats { attempted: 2, made: 2, ..RewindStats::default() });
}

#[tokio::test]
async fn all_damaged_inputs_are_found_at_once() {
    let house = House::new();
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in NAMES {
        house.build(&[], &[name]).await;
    }
    let action = house.mill.declare(&NAMES.map(digest_of), &["end"]).await;
    NAMES.iter().for_each(|name| house.mill.blobs.damage(digest_of(name)));
    assert!(execute(&house, action).await.unwrap().result.is_success());
    assert_eq!(house.runs(), 1 + 8 + 1);
}

#[tokio::test]
async fn what_only_the_client_can_bring_is_told_alone() {
    let house = House::new();
    house.build(&[], &["a"]).await;
    let (source, other) = (digest_of("source"), digest_of("other"));
    let action = house.mill.declare(&[digest_of("a"), source, other], &["end"]).await;
    house.lose(&["a"]);
    let error = execute(&house, action).await.unwrap_err();
    assert_eq!(*error.kind(), Kind::MissingBlobs { missing: vec![source, other] });
    assert_eq!(error.get_hint(), None);
    house.keep("source").await;
    house.keep("other").await;
    assert!(execute(&house, action).await.unwrap().result.is_success());
}

#[tokio::test]
async fn an_input_that_cannot_be_made_again_is_missing_and_the_error_says_why() {
    let house = House::new();
    let producer = house.build(&[], &["a"]).await;
    let action = house.mill.declare(&[digest_of("a")], &["end"]).await;
    house.lose(&["a"]);
    house.change(producer, |recipe| recipe.makes = vec!["another"]);
    let error = execute(&house, action).await.unwrap_err();
    assert_eq!(*error.kind(), Kind::MissingBlobs { missing: vec![digest_of("a")] });
    let hint = error.get_hint().unwrap();
    for part in [&*digest_of("a").to_string(), &producer.hex(), "made something else"] {
        assert!(hint.contains(part), "no `{part}` in: {hint}");
    }
}

#[tokio::test]
async fn other_failures_pass_as_they_are() {
    let house = House::new();
    let action = house.mill.declare(&[], &["end"]).await;
    let kind = Kind::FailedPrecondition { message: "no pool".into() };
    house.change(action, |recipe| recipe.refuses = Some(kind.clone()));
    assert_eq!(*execute(&house, action).await.unwrap_err().kind(), kind);
}
