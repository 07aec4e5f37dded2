//! Checks of writing: all or nothing, whatever comes.

use super::{Random, Subject};
use crate::faults;
use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use mortar_model::{Blob, BlobStoreExt, Digest, DigestSet};

/// Of content that is one piece to a store, and of content that is many.
const LENGTHS: [usize; 2] = [10_000, 2_000_000];

pub(super) async fn streamed_content_comes_back(subject: &Subject) -> Result<()> {
    for length in [1, 10_000, 256 * 1024, 1024 * 1024 + 1, 3_000_000] {
        for (digest, bytes) in subject.fresh(length) {
            let blob = faults::claiming(digest.size(), bytes.clone());
            subject.blobs.write(&subject.context, digest, blob).await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn writing_twice_is_writing_once(subject: &Subject) -> Result<()> {
    for length in LENGTHS {
        for (digest, bytes) in subject.fresh(length) {
            subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
            let again = faults::claiming(digest.size(), bytes.clone());
            subject.blobs.write(&subject.context, digest, again).await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn writers_of_one_blob_do_not_disturb_each_other(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(1_000_000) {
        let good = (0..8).map(|_| {
            let blob = faults::claiming(digest.size(), bytes.clone());
            subject.blobs.write(&subject.context, digest, blob)
        });
        let bad =
            subject.blobs.write(&subject.context, digest, faults::breaking(digest.size(), bytes.slice(..9)));
        // The one that fails may be told of success, since others bring the blob.
        let (written, _) = futures::join!(try_join_all(good), bad);
        written?;
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn content_with_another_hash_is_refused(subject: &Subject) -> Result<()> {
    for length in LENGTHS {
        for (digest, bytes) in subject.fresh(length) {
            let mut other = bytes.to_vec();
            other[length - 1] ^= 1;
            let other = Bytes::from(other);
            expect_refused(subject, digest, Blob::bytes(other.clone())).await?;
            expect_refused(subject, digest, faults::claiming(digest.size(), other)).await?;
            expect_writable(subject, digest, bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn content_that_is_too_short_is_refused(subject: &Subject) -> Result<()> {
    for length in LENGTHS {
        for (digest, bytes) in subject.fresh(length) {
            let short = bytes.slice(..length - 1);
            expect_refused(subject, digest, Blob::bytes(short.clone())).await?;
            expect_refused(subject, digest, faults::claiming(digest.size(), short)).await?;
            expect_refused(subject, digest, faults::claiming(digest.size(), Bytes::new())).await?;
            expect_writable(subject, digest, bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn content_that_is_too_long_is_refused(subject: &Subject) -> Result<()> {
    for length in LENGTHS {
        for (digest, bytes) in subject.fresh(length) {
            for more in [&b"!"[..], &vec![7; 500_000]] {
                let long = Bytes::from([&bytes[..], more].concat());
                expect_refused(subject, digest, Blob::bytes(long.clone())).await?;
                expect_refused(subject, digest, faults::claiming(digest.size(), long)).await?;
            }
            expect_writable(subject, digest, bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn content_that_fails_on_its_way_leaves_nothing(subject: &Subject) -> Result<()> {
    for length in LENGTHS {
        for (digest, bytes) in subject.fresh(length) {
            for reached in [0, length / 2, length - 1] {
                let blob = faults::breaking(digest.size(), bytes.slice(..reached));
                expect_refused(subject, digest, blob).await?;
            }
            expect_writable(subject, digest, bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_dropped_write_leaves_nothing(subject: &Subject) -> Result<()> {
    for length in LENGTHS {
        for (digest, bytes) in subject.fresh(length) {
            let (blob, stalled) = faults::stalling(digest.size(), bytes.slice(..length - 1));
            tokio::select! {
                done = subject.blobs.write(&subject.context, digest, blob) => {
                    anyhow::bail!("a write whose content had stalled ended: {done:?}")
                }
                _ = stalled => {}
            }
            subject.expect_missing(digest).await?;
            expect_writable(subject, digest, bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn many_streams_at_once(subject: &Subject) -> Result<()> {
    for function in &subject.functions {
        let mut random = Random::new();
        let blobs: Vec<_> = (0..64).map(|i| random.blob(*function, 300_000 + i)).collect();
        let writes = blobs.iter().map(|(digest, bytes)| {
            let blob = faults::claiming(digest.size(), bytes.clone());
            subject.blobs.write(&subject.context, *digest, blob)
        });
        try_join_all(writes).await?;
        let all: DigestSet = blobs.iter().map(|(digest, _)| *digest).collect();
        let missing = subject.blobs.find_missing(&subject.context, &all).await?;
        ensure!(missing.is_empty(), "of 64 blobs written at once {} are missing", missing.len());
        try_join_all(blobs.iter().map(|(digest, bytes)| subject.expect_whole(*digest, bytes))).await?;
    }
    Ok(())
}

async fn expect_refused(subject: &Subject, digest: Digest, blob: Blob) -> Result<()> {
    let written = subject.blobs.write(&subject.context, digest, blob).await;
    ensure!(written.is_err(), "content that is not `{digest}` was accepted");
    subject.expect_missing(digest).await
}

/// That a failed write does not stand in the way of a good one.
async fn expect_writable(subject: &Subject, digest: Digest, bytes: Bytes) -> Result<()> {
    subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
    subject.expect_whole(digest, &bytes).await
}
