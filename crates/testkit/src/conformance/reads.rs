//! Checks of reading and of asking what is missing.

use super::{Random, Subject};
use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{Blob, BlobStoreExt, Digest, DigestSet, Kind, Range};

const MIB: usize = 1024 * 1024;

pub(super) async fn the_empty_blob_always_exists(subject: &Subject) -> Result<()> {
    for function in &subject.functions {
        let empty = Digest::empty(*function);
        subject.expect_whole(empty, &Bytes::new()).await?;
        subject.blobs.write(&subject.context, empty, Blob::bytes("")).await?;
        subject.expect_whole(empty, &Bytes::new()).await?;
    }
    Ok(())
}

pub(super) async fn a_missing_blob_is_not_found(subject: &Subject) -> Result<()> {
    // A byte may well have been written by a check before.
    for length in [20, 100, 5 * MIB] {
        for (digest, _) in subject.fresh(length) {
            subject.expect_missing(digest).await?;
        }
    }
    Ok(())
}

pub(super) async fn blobs_of_all_sizes_come_back(subject: &Subject) -> Result<()> {
    for length in [1, 4096, MIB + 1, 5 * MIB] {
        for (digest, bytes) in subject.fresh(length) {
            subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn ranges_are_exact(subject: &Subject) -> Result<()> {
    for length in [1000, 3 * MIB] {
        for (digest, bytes) in subject.fresh(length) {
            subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
            let size = length as u64;
            for (offset, limit) in [
                (0, None),
                (0, Some(1)),
                (0, Some(size)),
                (0, Some(size + 1)),
                (1, None),
                (7, Some(500)),
                (size / 2, Some(size)),
                (size - 1, None),
                (size, None),
                (size, Some(10)),
            ] {
                let range = Range { offset, limit };
                let end = limit.map_or(size, |limit| size.min(offset + limit));
                let wanted = bytes.slice(offset as usize..end as usize);
                let read = subject.fetch(digest, range).await?;
                ensure!(read == wanted, "{range:?} of {length} bytes: got {} other bytes", read.len());
            }
        }
    }
    Ok(())
}

pub(super) async fn a_read_past_the_end_is_out_of_range(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(1000) {
        subject.blobs.write_bytes(&subject.context, digest, bytes).await?;
        for offset in [1001, 1_000_000] {
            match subject.fetch(digest, Range { offset, limit: None }).await {
                Ok(read) => anyhow::bail!("offset {offset} of 1000 bytes gave {} bytes", read.len()),
                Err(error) => ensure!(
                    matches!(error.kind(), Kind::OutOfRange { .. }),
                    "offset {offset} of 1000 bytes: expected out of range, got: {error}"
                ),
            }
        }
    }
    Ok(())
}

pub(super) async fn find_missing_tells_present_from_missing(subject: &Subject) -> Result<()> {
    for function in &subject.functions {
        let mut random = Random::new();
        let present: Vec<_> = (0..20).map(|_| random.blob(*function, 100)).collect();
        let absent: Vec<_> = (0..20).map(|_| random.blob(*function, 100).0).collect();
        for (digest, bytes) in &present {
            subject.blobs.write_bytes(&subject.context, *digest, bytes.clone()).await?;
        }
        // In turns, and each twice.
        let mixed = present.iter().map(|(digest, _)| digest).zip(&absent).flat_map(|(a, b)| [*a, *b, *a, *b]);
        let missing = subject.blobs.find_missing(&subject.context, &mixed.collect()).await?;
        ensure!(missing.len() == absent.len(), "20 of 40 are missing, {} were named", missing.len());
        ensure!(absent.iter().all(|digest| missing.contains(digest)), "the wrong ones were called missing");
        let none = subject.blobs.find_missing(&subject.context, &DigestSet::new()).await?;
        ensure!(none.is_empty(), "of none, {} are missing", none.len());
    }
    Ok(())
}

pub(super) async fn a_wrong_size_names_no_blob(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(1000) {
        subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
        for size in [999, 1001] {
            let wrong = Digest::new(digest.function(), *digest.hash(), size);
            let read = subject.fetch(wrong, Range::ALL).await;
            ensure!(read.is_err(), "`{digest}` was read as `{wrong}`");
        }
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn a_read_may_be_dropped_in_the_middle(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(5 * MIB) {
        subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
        for _ in 0..3 {
            let blob = subject.blobs.read(&subject.context, digest, Range::ALL).await?;
            let mut stream = blob.into_stream();
            ensure!(stream.next().await.is_some_and(|first| first.is_ok()), "`{digest}` has no first piece");
        }
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}
