use super::*;
use mortar_model::DigestFunction;
use std::time::SystemTime;

struct Held(Mutex<Duration>, Instant);

impl Clock for Held {
    fn now(&self) -> Instant {
        self.1 + *self.0.lock()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + *self.0.lock()
    }
}

fn digest(name: &str) -> Digest {
    Digest::of(DigestFunction::Sha256, name.as_bytes())
}

const LEASE: Duration = Duration::from_secs(300);

#[test]
fn two_thirds_of_a_lease_are_trusted_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("knowledge");
    let clock = Arc::new(Held(Mutex::default(), Instant::now()));
    let open = || Knowledge::open(&path, clock.clone()).unwrap();
    let knowledge = open();
    let (main, other) = (knowledge.scope("grpc://a:1", ""), knowledge.scope("grpc://a:1", "other"));
    knowledge.note(main, [digest("a"), digest("b")], LEASE);
    knowledge.forget(main, [digest("b")]);
    let check = |knowledge: &Knowledge| {
        assert_eq!(knowledge.scope("grpc://a:1", "other"), other);
        let knows = |scope, name| knowledge.knows(scope, digest(name));
        [knows(main, "a"), knows(main, "b"), knows(other, "a")]
    };
    assert_eq!(check(&knowledge), [true, false, false]);
    knowledge.save().unwrap();
    *clock.0.lock() += Duration::from_secs(199);
    assert_eq!(check(&open()), [true, false, false]);
    *clock.0.lock() += Duration::from_secs(1);
    for knowledge in [open(), knowledge] {
        assert_eq!(check(&knowledge), [false, false, false]);
        let once = |name| knowledge.once_knew(main, digest(name));
        assert_eq!([once("a"), once("b"), once("c")], [true, false, false]);
    }
    *clock.0.lock() += ONCE;
    assert!(!open().once_knew(main, digest("a")));
}

#[test]
fn what_is_used_is_due_after_a_third_of_its_lease() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Held(Mutex::default(), Instant::now()));
    let knowledge = Knowledge::open(&directory.path().join("knowledge"), clock.clone()).unwrap();
    let scope = knowledge.scope("grpc://a:1", "");
    knowledge.note(scope, [digest("a"), digest("b")], LEASE);
    assert!(knowledge.knows(scope, digest("a")));
    assert_eq!(knowledge.due(scope), []);
    *clock.0.lock() += Duration::from_secs(100);
    assert_eq!(knowledge.due(scope), [digest("a")]);
    knowledge.note(scope, [digest("a")], LEASE);
    assert_eq!(knowledge.due(scope), []);
}

#[test]
fn that_a_blob_is_absent_is_known_for_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Held(Mutex::default(), Instant::now()));
    let knowledge = Knowledge::open(&directory.path().join("knowledge"), clock.clone()).unwrap();
    let scope = knowledge.scope("grpc://a:1", "");
    knowledge.note_absent(scope, [digest("a"), digest("b")]);
    knowledge.note(scope, [digest("b")], LEASE);
    let absent = || [knowledge.was_absent(scope, digest("a")), knowledge.was_absent(scope, digest("b"))];
    assert_eq!(absent(), [true, false]);
    *clock.0.lock() += ABSENT_FOR;
    assert_eq!(absent(), [false, false]);
}

#[test]
fn a_damaged_file_costs_what_was_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("knowledge");
    let clock = Arc::new(Held(Mutex::default(), Instant::now()));
    let knowledge = Knowledge::open(&path, clock.clone()).unwrap();
    let scope = knowledge.scope("grpc://a:1", "");
    for name in ["a", "b"] {
        knowledge.note(scope, [digest(name)], LEASE);
        knowledge.save().unwrap();
    }
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    for _ in 0..2 {
        let knowledge = Knowledge::open(&path, clock.clone()).unwrap();
        assert!(knowledge.knows(scope, digest("a")) && !knowledge.knows(scope, digest("b")));
    }
}

#[test]
fn beyond_the_bound_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Held(Mutex::default(), Instant::now()));
    let knowledge = Knowledge::open(&directory.path().join("knowledge"), clock.clone()).unwrap();
    let scope = knowledge.scope("grpc://a:1", "");
    let hash = |number: u32| {
        let mut hash = [1; 32];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        Digest::new(DigestFunction::Sha256, hash, 1)
    };
    knowledge.note(scope, (0..MOST as u32).map(hash), LEASE);
    *clock.0.lock() += Duration::from_secs(1);
    knowledge.note(scope, [digest("new")], LEASE);
    assert!(knowledge.knows(scope, digest("new")) && !knowledge.knows(scope, hash(0)));
}
