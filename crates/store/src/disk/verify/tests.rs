//! Every kind of damage that a verification is there to find, made behind the store's back.

use super::*;
use crate::{
    DiskConfig, Record, RecordKind, Records as _,
    disk::{
        leases::Stamp,
        log::{Append, answered},
    },
    frames::{self, Level},
};
use bytes::Bytes;
use mortar_model::{BlobStoreExt, Context, Digest, DigestFunction, Encoding};
use std::{fs, io::Write, os::unix::fs::FileExt, path::Path};

const LARGE: usize = 700_000;

struct Subject {
    directory: tempfile::TempDir,
    store: Arc<DiskStore>,
}

impl Subject {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // After an end in order, the store does not look for stray files by itself.
        drop(open(directory.path()));
        Self { store: open(directory.path()), directory }
    }

    fn reopened(self) -> Self {
        let Self { directory, store } = self;
        drop(store);
        Self { store: open(directory.path()), directory }
    }

    async fn put(&self, seed: u32, length: usize) -> (Digest, Bytes) {
        let (digest, content) = blob(seed, length);
        self.store.write_bytes(&Context::internal(), digest, content.clone()).await.unwrap();
        (digest, content)
    }

    async fn get(&self, digest: Digest) -> Option<Bytes> {
        self.store.read_all(&Context::internal(), digest, u64::MAX).await.ok()
    }

    async fn verify(&self, deep: bool) -> (VerifyReport, Vec<Finding>) {
        let mut steps = self.store.verify(VerifyOptions { deep, gentle: false });
        let (mut findings, mut last, mut done) = (Vec::new(), None, 0);
        while let Some(step) = steps.next().await {
            let step = step.unwrap();
            assert!(done <= step.done && step.done <= step.total, "{step:?}");
            done = step.done;
            findings.extend(step.findings.clone());
            last = Some(step);
        }
        let last = last.unwrap();
        assert!(last.finished);
        (last.report, findings)
    }

    /// Verifies and expects exactly this; a second time there is nothing to find any more.
    async fn assert_found(&self, deep: bool, expected: &[Verdict]) -> Vec<Finding> {
        let (report, findings) = self.verify(deep).await;
        let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, expected, "{findings:?}");
        let bad = [Verdict::Damaged, Verdict::Lost, Verdict::Unreadable];
        assert_eq!(report.is_sound(), !expected.iter().any(|verdict| bad.contains(verdict)), "{report:?}");
        let (again, findings) = self.verify(deep).await;
        assert!(again.is_sound() && findings.is_empty() && !again.recounted, "{again:?} {findings:?}");
        findings
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.store.shared
    }

    fn unlist(&self, digest: Digest) {
        let removed = self.shared().table.remove(&Key::of(digest), |_, _| true);
        self.shared().usage.replaced(removed.as_ref(), None);
    }

    fn path(&self, digest: Digest) -> std::path::PathBuf {
        self.shared().layout.blob_path(Key::of(digest), Encoding::Identity)
    }
}

fn open(directory: &Path) -> Arc<DiskStore> {
    DiskStore::open(DiskConfig { directory: directory.into(), max_size: 1 << 40 }).unwrap()
}

fn blob(seed: u32, length: usize) -> (Digest, Bytes) {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let content: Bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(length)
    .collect();
    (Digest::of(DigestFunction::Sha256, &content), content)
}

/// Turns one bit round in a file that may not be written to.
fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 4;
    overwrite(path, &bytes);
}

/// In place: the store may have it open.
fn overwrite(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

#[tokio::test]
async fn what_is_as_it_should_be() {
    let subject = Subject::new();
    for seed in 0..20 {
        subject.put(seed, 1000).await;
    }
    subject.put(100, LARGE).await;
    let record = |n| Record { kind: RecordKind::Result, name: [n; 32], content: vec![n; 50].into() };
    subject.store.put_records(&Context::internal(), (1..4).map(record).collect()).await.unwrap();
    for deep in [false, true] {
        let (report, findings) = subject.verify(deep).await;
        assert_eq!((report.blobs, report.records), (21, 3));
        assert!(report.is_sound() && !report.recounted && findings.is_empty(), "{report:?} {findings:?}");
    }
}

#[tokio::test]
async fn an_empty_store() {
    let (report, _) = Subject::new().verify(true).await;
    assert_eq!(report, VerifyReport::default());
}

#[tokio::test]
async fn a_flipped_bit_in_any_part_of_a_record() {
    for part in [4_u64, 45, 90] {
        let subject = Subject::new();
        let kept = [subject.put(1, 100).await.0, subject.put(3, 100).await.0];
        let (bad, _) = subject.put(2, 100).await;
        let place = subject.shared().table.get(&Key::of(bad)).unwrap().place;
        let segment = subject.directory.path().join(format!("segments/{:08x}", place.segment));
        flip(&segment, u64::from(place.offset) + part);
        subject.assert_found(false, &[Verdict::Damaged]).await;
        assert_eq!(subject.store.stats().quarantined, 1);
        assert_eq!(subject.get(bad).await, None);
        for digest in kept {
            assert!(subject.get(digest).await.is_some());
        }
        let subject = subject.reopened();
        assert_eq!(subject.get(bad).await, None, "part {part}");
        assert_eq!(subject.store.stats().blobs, 2);
    }
}

#[tokio::test]
async fn a_segment_of_zeros() {
    let subject = Subject::new();
    for seed in 0..10 {
        subject.put(seed, 2000).await;
    }
    let segment = subject.directory.path().join("segments/00000001");
    let length = fs::metadata(&segment).unwrap().len();
    overwrite(&segment, &vec![0; length as usize]);
    subject.assert_found(false, &[Verdict::Damaged; 10]).await;
    assert_eq!((subject.store.stats().blobs, subject.store.stats().quarantined), (0, 10));
}

type Spoil = fn(&Path);

#[tokio::test]
async fn large_blobs_flipped_cut_grown_and_gone() {
    let spoil: [(Spoil, Verdict); 4] = [
        (|path| flip(path, 600_000), Verdict::Damaged),
        (|path| overwrite(path, &fs::read(path).unwrap()[..1000]), Verdict::Damaged),
        (|path| overwrite(path, &[&fs::read(path).unwrap()[..], b"more"].concat()), Verdict::Damaged),
        (|path| fs::remove_file(path).unwrap(), Verdict::Lost),
    ];
    for (spoil, verdict) in spoil {
        let subject = Subject::new();
        let (kept, _) = subject.put(1, LARGE).await;
        let (bad, _) = subject.put(2, LARGE).await;
        spoil(&subject.path(bad));
        subject.assert_found(false, &[verdict]).await;
        assert_eq!(subject.get(bad).await, None);
        assert!(subject.get(kept).await.is_some());
        assert_eq!(subject.store.stats().blobs, 1);
    }
}

#[tokio::test]
async fn what_the_index_forgot_is_taken_up_again() {
    let subject = Subject::new();
    let (small, content) = subject.put(1, 5000).await;
    let (large, large_content) = subject.put(2, LARGE).await;
    let zeros = Bytes::from(vec![0; 4000]);
    let zeros_digest = Digest::of(DigestFunction::Sha256, &zeros);
    let frames = frames::deflate(&zeros).unwrap();
    use mortar_model::EncodedBlobs;
    subject.store.write_zstd(&Context::internal(), zeros_digest, frames.into()).await.unwrap();
    for digest in [small, large, zeros_digest] {
        subject.unlist(digest);
        assert_eq!(subject.get(digest).await, None);
    }
    subject.assert_found(false, &[Verdict::Recovered; 3]).await;
    let subject = subject.reopened();
    assert_eq!(subject.get(small).await, Some(content));
    assert_eq!(subject.get(large).await, Some(large_content));
    assert_eq!(subject.get(zeros_digest).await, Some(zeros));
    assert_eq!(subject.store.stats().blobs, 3);
}

#[tokio::test]
async fn a_record_that_does_not_hash_its_content_is_not_taken_up_again() {
    let subject = Subject::new();
    let record = Record { kind: RecordKind::Result, name: [1; 32], content: "older".into() };
    subject.store.put_records(&Context::internal(), vec![record]).await.unwrap();
    let key = Key::new(RecordKind::Result, [1; 32]);
    let removed = subject.shared().table.remove(&key, |_, _| true);
    subject.shared().usage.replaced(removed.as_ref(), None);
    subject.assert_found(true, &[]).await;
    assert_eq!(subject.store.record(&Context::glance(), RecordKind::Result, [1; 32]).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_purged_stays_away() {
    let subject = Subject::new();
    let (small, _) = subject.put(1, 5000).await;
    let (large, large_content) = subject.put(2, LARGE).await;
    let (unlisted, _) = subject.put(3, 5000).await;
    let (kept, content) = subject.put(4, 5000).await;
    subject.unlist(unlisted);
    assert!(subject.store.purge_blob(small).await.unwrap());
    assert!(subject.store.purge_blob(large).await.unwrap());
    assert!(!subject.store.purge_blob(unlisted).await.unwrap());
    subject.assert_found(true, &[]).await;
    // As if a crash of the machine had brought the file back.
    fs::write(subject.path(large), &large_content).unwrap();
    // As if the process had ended, and the index been lost.
    let Subject { directory, store } = subject;
    drop(store);
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    fs::create_dir(directory.path().join("index")).unwrap();
    let subject = Subject { store: open(directory.path()), directory };
    // It goes by itself after such a start.
    let deadline = Instant::now() + Duration::from_secs(30);
    while subject.path(large).exists() {
        assert!(Instant::now() < deadline, "the file is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    subject.assert_found(true, &[]).await;
    for digest in [small, large, unlisted] {
        assert_eq!(subject.get(digest).await, None);
    }
    assert_eq!(subject.get(kept).await, Some(content));
    // Who brings it anew is welcome.
    subject.put(1, 5000).await;
    subject.assert_found(true, &[]).await;
    assert!(subject.get(small).await.is_some());
}

#[tokio::test]
async fn files_that_nobody_told_of() {
    let subject = Subject::new();
    let (plain, plain_content) = blob(1, LARGE);
    let (_, other) = blob(2, LARGE);
    let text = Bytes::from("so it goes ".repeat(100_000));
    let squeezed = Digest::of(DigestFunction::Sha256, &text);
    let (liar, broken) = (blob(3, LARGE).0, blob(4, LARGE).0);
    let layout = &subject.shared().layout;
    let put = |path: std::path::PathBuf, content: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let mut frames = Vec::new();
    let plain_text = subject.directory.path().join("text");
    fs::write(&plain_text, &text).unwrap();
    let source = fs::File::open(&plain_text).unwrap();
    frames::compress(&source, text.len() as u64, &mut frames, Level::default()).unwrap().unwrap();
    put(subject.path(plain), &plain_content);
    put(layout.blob_path(Key::of(squeezed), Encoding::Zstd), &frames);
    put(subject.path(liar), &other);
    put(layout.blob_path(Key::of(broken), Encoding::Zstd), &other);
    put(subject.path(liar).with_file_name("notes.txt"), b"not ours");
    let (report, findings) = subject.verify(false).await;
    assert_eq!((report.recovered, report.removed, report.is_sound()), (2, 3, true), "{findings:?}");
    subject.assert_found(true, &[]).await;
    let subject = subject.reopened();
    assert_eq!(subject.get(plain).await, Some(plain_content));
    assert_eq!(subject.get(squeezed).await, Some(text));
    assert!(!subject.path(liar).exists());
    let blocks = |length: usize| length.next_multiple_of(4096) as u64;
    let stats = subject.store.stats();
    assert_eq!((stats.blobs, stats.file_bytes), (2, blocks(LARGE) + blocks(frames.len())));
}

#[tokio::test]
async fn the_second_form_of_a_blob_is_removed() {
    let subject = Subject::new();
    let (large, content) = subject.put(1, LARGE).await;
    let (small, _) = subject.put(2, 100).await;
    // After an end in order, the store does not look for such files by itself.
    let subject = subject.reopened();
    fs::write(subject.shared().layout.blob_path(Key::of(large), Encoding::Zstd), b"whatever").unwrap();
    let path = subject.path(small);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"whatever").unwrap();
    subject.assert_found(false, &[Verdict::Removed; 2]).await;
    assert_eq!(subject.get(large).await, Some(content));
    assert!(subject.get(small).await.is_some());
}

#[tokio::test]
async fn an_entry_that_points_elsewhere() {
    let subject = Subject::new();
    let (bad, _) = subject.put(1, 100).await;
    let (other, _) = subject.put(2, 100).await;
    let table = &subject.shared().table;
    let there = table.get(&Key::of(other)).unwrap();
    table.update(&Key::of(bad), |present| present.map(|(_, touch)| (there, touch))).unwrap();
    let (report, findings) = subject.verify(false).await;
    assert_eq!((report.damaged, report.recovered), (2, 1), "{findings:?}");
    assert_eq!(subject.get(bad).await, None);
    assert!(subject.get(other).await.is_some());
    subject.assert_found(false, &[Verdict::Recovered]).await;
    assert!(subject.get(bad).await.is_some());
}

#[tokio::test]
async fn accounts_are_corrected() {
    let subject = Subject::new();
    subject.put(1, LARGE).await;
    // What is counted at the start corrects them too.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !subject.store.stats().walked {
        assert!(Instant::now() < deadline, "nothing is counted");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let stats = subject.store.stats();
    subject.shared().usage.restore(5, [77, 7, 7]);
    let (report, _) = subject.verify(false).await;
    assert!(report.recounted && report.is_sound());
    let now = subject.store.stats();
    assert_eq!((now.blobs, now.results, now.file_bytes), (stats.blobs, 0, stats.file_bytes));
}

#[tokio::test]
async fn content_that_is_another_is_found_by_its_hash_alone() {
    let subject = Subject::new();
    let (digest, _) = blob(1, 300);
    let (_, other) = blob(2, 300);
    let append = Append::content(digest, Encoding::Identity, other, Stamp::glance());
    answered(subject.shared().log.append([append]).pop().unwrap()).await.unwrap();
    let (report, _) = subject.verify(false).await;
    assert!(report.is_sound() && report.blobs == 1);
    subject.assert_found(true, &[Verdict::Damaged]).await;
    assert_eq!(subject.get(digest).await, None);
    // Its record is a valid one, and still it does not come back.
    let Subject { directory, store } = subject;
    drop(store);
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    fs::create_dir(directory.path().join("index")).unwrap();
    let subject = Subject { store: open(directory.path()), directory };
    assert_eq!(subject.get(digest).await, None);
    subject.assert_found(true, &[]).await;
}

#[tokio::test]
async fn large_content_that_is_another() {
    let subject = Subject::new();
    let (good, content) = subject.put(1, LARGE).await;
    let (claimed, _) = blob(2, LARGE);
    let entry = subject.shared().table.get(&Key::of(good)).unwrap();
    let (_, pieces) = subject.shared().segments.read_any(entry.place).unwrap();
    let path = subject.path(claimed);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::File::create(&path).unwrap().write_all(&content).unwrap();
    let append = Append {
        role: crate::disk::frame::Role::File,
        blocks: entry.stored,
        payload: pieces,
        ..Append::content(claimed, Encoding::Identity, Bytes::new(), Stamp::glance())
    };
    answered(subject.shared().log.append([append]).pop().unwrap()).await.unwrap();
    let (report, _) = subject.verify(false).await;
    assert!(report.is_sound() && report.blobs == 2, "{report:?}");
    subject.assert_found(true, &[Verdict::Damaged]).await;
    assert_eq!(subject.get(claimed).await, None);
    assert!(subject.get(good).await.is_some());
}

#[tokio::test]
async fn it_can_be_stopped_anywhere_while_others_write() {
    let subject = Subject::new();
    for seed in 0..4 {
        subject.put(seed, LARGE).await;
    }
    let mut steps = subject.store.verify(VerifyOptions { deep: true, gentle: true });
    let mut seen = 0;
    while let Some(step) = steps.next().await {
        let step = step.unwrap();
        assert!(step.report.is_sound(), "{step:?}");
        subject.put(1000 + seen, 50_000).await;
        seen += 1;
        if seen == 6 {
            assert!(!step.finished);
            break;
        }
    }
    drop(steps);
    let (report, _) = subject.verify(false).await;
    assert_eq!((report.blobs, report.is_sound()), (10, true));
}
