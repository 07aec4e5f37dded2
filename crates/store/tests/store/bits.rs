//! Bits that flip while nobody looks, in every kind of file and record: nothing wrong is served, the store opens, and what
//! is hit is lost alone, or found again.

use crate::fixture::{
    MIB, blob_path, config, context, files, flip, open_with, quick_directory, record_place,
};
use bytes::Bytes;
use mortar_model::{BlobStoreExt, Context, Digest};
use mortar_store::{DiskStore, Policy, Record, RecordKind, Records};
use mortar_testkit::conformance::Random;
use std::{
    fs,
    path::{Path, PathBuf},
};

const SIZE: u64 = 16 * MIB;
/// Of a record in a segment, before its content.
const HEADER: u64 = 72;
const FLIPS: usize = 40;

struct Known {
    blobs: Vec<(Digest, Bytes)>,
    records: Vec<(u8, Bytes)>,
}

async fn filled(directory: &Path) -> Known {
    let store = open_with(directory, SIZE, Policy::default()).await;
    let mut random = Random::seeded(5);
    let mut known = Known { blobs: Vec::new(), records: Vec::new() };
    for length in [100, 1000, 5000, 130_000, 140_000, 400_000] {
        let (digest, bytes) = random.blob(mortar_model::DigestFunction::Sha256, length);
        store.write_bytes(&context(), digest, bytes.clone()).await.unwrap();
        known.blobs.push((digest, bytes));
    }
    for name in 0..5 {
        let content = random.bytes(500);
        let record = Record { kind: RecordKind::Result, name: [name; 32], content: content.clone() };
        store.put_records(&Context::internal(), vec![record]).await.unwrap();
        known.records.push((name, content));
    }
    known
}

/// How many things are missing. Nothing else may be wrong with any, and whatever is missing may come anew.
async fn missing(store: &DiskStore, known: &Known, what: &str) -> usize {
    let mut missing = 0;
    for (digest, bytes) in &known.blobs {
        for time in ["first", "second"] {
            match store.read_all(&context(), *digest, SIZE).await {
                Ok(read) => assert_eq!(read, *bytes, "{what}, read a {time} time"),
                Err(_) if time == "first" => {
                    missing += 1;
                    store.write_bytes(&context(), *digest, bytes.clone()).await.unwrap();
                }
                Err(error) => panic!("{what}: written anew: {error}"),
            }
        }
    }
    for (name, content) in &known.records {
        match store.record(&Context::internal(), RecordKind::Result, [*name; 32]).await.unwrap() {
            Some(read) => assert_eq!(read, *content, "{what}"),
            None => missing += 1,
        }
    }
    missing
}

/// Flips bits within a part of a file, one in each copy of a store. At most so many things are missing then.
async fn flip_each(
    unclean: bool,
    at_most: usize,
    choose: impl Fn(&Path, &Known) -> Vec<(PathBuf, u64, u64)>,
) {
    let directory = quick_directory();
    let original = directory.path().join("original");
    let known = filled(&original).await;
    if unclean {
        // As if the run had not ended in order.
        fs::remove_file(original.join("CHECKPOINT")).unwrap();
    }
    let mut random = Random::new();
    let choices = choose(&original, &known);
    for number in 0..FLIPS {
        let copy = directory.path().join(number.to_string());
        let (path, start, end) = &choices[random.number() as usize % choices.len()];
        let (at, bit) = (start + random.number() % (end - start), random.number() % 8);
        let below = path.strip_prefix(&original).unwrap();
        let what = format!("bit {bit} of byte {at} of {}", below.display());
        copy_tree(&original, &copy);
        flip(&copy.join(below), at, 1 << bit);
        let store = open_with(&copy, SIZE, Policy::default()).await;
        let missing = missing(&store, &known, &what).await;
        assert!(missing <= at_most, "{what}: {missing} things are missing: {:?}", store.stats());
        drop(store);
        fs::remove_dir_all(copy).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

/// The whole of each of these.
fn whole(paths: impl IntoIterator<Item = PathBuf>) -> Vec<(PathBuf, u64, u64)> {
    let length = |path: &PathBuf| path.metadata().unwrap().len();
    paths.into_iter().map(|path| (path.clone(), 0, length(&path))).filter(|(.., end)| *end > 0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_records() {
    for unclean in [false, true] {
        let records = |directory: &Path, known: &Known| {
            let small = known.blobs.iter().filter(|(_, bytes)| bytes.len() < 131_072).map(|(_, bytes)| bytes);
            let contents = small.chain(known.records.iter().map(|(_, content)| content));
            let place = |content: &Bytes| {
                let (path, at) = record_place(directory, content).unwrap();
                (path, at - HEADER, at + content.len() as u64)
            };
            contents.map(place).collect()
        };
        flip_each(unclean, 1, records).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_segments() {
    for unclean in [false, true] {
        flip_each(unclean, 1, |directory, _| whole(files(&directory.join("segments")))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_files() {
    let large = |directory: &Path, known: &Known| {
        let large = known.blobs.iter().filter(|(_, bytes)| bytes.len() > 131_072);
        whole(large.map(|(digest, _)| blob_path(directory, *digest)))
    };
    flip_each(false, 1, large).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_index() {
    for unclean in [false, true] {
        let tables = |directory: &Path, _: &Known| {
            let tables =
                files(&directory.join("index")).into_iter().filter(|path| path.extension().is_none());
            whole(tables)
        };
        // What cannot be found in the index is found in the segments, if they are read.
        flip_each(unclean, usize::from(!unclean), tables).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_slots_headers_and_uses() {
    let used = |directory: &Path| -> Vec<PathBuf> {
        let has_slots = |path: &PathBuf| fs::read(path).unwrap()[64..].iter().any(|byte| *byte != 0);
        let tables = files(&directory.join("index")).into_iter().filter(|path| path.extension().is_none());
        tables.filter(has_slots).collect()
    };
    let slots = |directory: &Path, _: &Known| {
        let each = used(directory).into_iter().flat_map(|path| {
            let bytes = fs::read(&path).unwrap();
            let taken = (64..bytes.len()).step_by(32).filter(move |at| bytes[*at..at + 32] != [0; 32]);
            taken.map(move |at| (path.clone(), at as u64, at as u64 + 32)).collect::<Vec<_>>()
        });
        each.collect()
    };
    flip_each(false, 1, slots).await;
    let headers =
        |directory: &Path, _: &Known| used(directory).into_iter().map(|path| (path, 0, 64)).collect();
    flip_each(false, 0, headers).await;
    let uses = |directory: &Path, _: &Known| {
        let all = files(&directory.join("index")).into_iter();
        whole(all.filter(|path| path.extension().is_some_and(|extension| extension == "uses")))
    };
    flip_each(false, 0, uses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_checkpoint() {
    flip_each(false, 0, |directory, _| whole([directory.join("CHECKPOINT")])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_secret() {
    let secret = |directory: &Path, _: &Known| {
        let (path, title) = (directory.join("FORMAT"), "mortar-store 2\n".len() as u64);
        let end = path.metadata().unwrap().len();
        vec![(path, title, end)]
    };
    flip_each(false, 0, secret).await;
}

/// Its version may be meant as it is written, so it is not guessed.
#[tokio::test]
async fn of_the_name_of_the_format() {
    let directory = quick_directory();
    let known = filled(directory.path()).await;
    flip(&directory.path().join("FORMAT"), 3, 1);
    let refusal = DiskStore::open(config(directory.path(), SIZE)).err().expect("it is refused").to_string();
    assert!(refusal.contains("`moruar-store 2`"), "{refusal}");
    flip(&directory.path().join("FORMAT"), 3, 1);
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    assert_eq!(missing(&store, &known, "put right").await, 0);
}

/// A part of the index that is gone is found again in the segments.
#[tokio::test]
async fn of_a_whole_part_of_the_index() {
    let directory = quick_directory();
    let known = filled(directory.path()).await;
    for path in files(&directory.path().join("index")).into_iter().step_by(3) {
        fs::remove_file(path).unwrap();
    }
    let store = open_with(directory.path(), SIZE, Policy::default()).await;
    assert_eq!(missing(&store, &known, "without parts of the index").await, 0);
}
