use super::*;
use mortar_model::{ActionKey, Digest, DigestFunction, DigestSet};

fn blob(name: &str) -> Owed {
    Owed::Blob(Digest::of(DigestFunction::Blake3, name.as_bytes()))
}

fn result(name: &str) -> Owed {
    let digest = Digest::of(DigestFunction::Sha256, name.as_bytes());
    let closure = Arc::new(DigestSet::from_iter([digest]));
    Owed::Result { key: ActionKey::from(digest), bytes: Bytes::copy_from_slice(name.as_bytes()), closure }
}

async fn add(journal: &Journal, owed: &Owed) -> u64 {
    let number = journal.number();
    journal.add(number, &InstanceName::parse("main").unwrap(), owed).await.unwrap();
    number
}

fn owed(directory: &Path) -> (Journal, Vec<Owed>) {
    let (journal, entries) = Journal::open(directory).unwrap();
    assert!(entries.windows(2).all(|pair| pair[0].number < pair[1].number));
    assert!(entries.iter().all(|entry| entry.instance.as_str() == "main"));
    (journal, entries.into_iter().map(|entry| entry.owed).collect())
}

#[tokio::test]
async fn what_is_not_done_is_there_after_any_number_of_restarts_in_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, entries) = owed(directory.path());
    assert_eq!(entries, []);
    let first = add(&journal, &blob("a")).await;
    add(&journal, &result("b")).await;
    let last = add(&journal, &blob("c")).await;
    journal.done(first);
    drop(journal);
    for _ in 0..2 {
        assert_eq!(owed(directory.path()).1, [result("b"), blob("c")]);
    }
    assert!(owed(directory.path()).0.number() > last, "numbers are not used twice");
}

#[tokio::test]
async fn what_was_added_is_there_although_nobody_closed_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = owed(directory.path());
    add(&journal, &blob("a")).await;
    let copy = tempfile::tempdir().unwrap();
    fs::copy(directory.path().join(NAME), copy.path().join(NAME)).unwrap();
    assert_eq!(owed(copy.path()).1, [blob("a")]);
}

#[tokio::test]
async fn a_torn_end_costs_what_was_torn() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = owed(directory.path());
    add(&journal, &blob("a")).await;
    add(&journal, &result("b")).await;
    drop(journal);
    let path = directory.path().join(NAME);
    let whole = fs::read(&path).unwrap();
    let mut rest = Bytes::from(whole.clone()).slice(HEADER.len()..);
    framed::unframe(&mut rest).unwrap();
    for length in whole.len() - rest.len()..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(owed(directory.path()).1, [blob("a")], "{length}");
    }
    fs::write(&path, "something else").unwrap();
    assert_eq!(owed(directory.path()).1, []);
}

#[tokio::test]
async fn a_file_full_of_the_past_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = owed(directory.path());
    add(&journal, &blob("kept")).await;
    let long = result(&"x".repeat(1 << 20));
    for _ in 0..12 {
        journal.done(add(&journal, &long).await);
    }
    add(&journal, &result("kept too")).await;
    assert!(fs::metadata(directory.path().join(NAME)).unwrap().len() < 6 << 20);
    drop(journal);
    assert_eq!(owed(directory.path()).1, [blob("kept"), result("kept too")]);
}
