//! Checks of blobs as chunks. Sizes follow the subject's own parameters.

use super::{Random, Subject};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use mortar_model::{
    BlobStoreExt, ChunkMapping, ChunkingFunction, Chunks, Digest, DigestFunction, Kind, Range,
};

const FUNCTIONS: [Option<ChunkingFunction>; 3] =
    [None, Some(ChunkingFunction::FastCdc2020), Some(ChunkingFunction::RepMaxCdc)];

fn chunks(subject: &Subject) -> Result<&dyn Chunks> {
    subject.chunks.as_deref().context("the subject knows no chunks")
}

/// A size that every function cuts.
fn large(subject: &Subject) -> Result<usize> {
    let parameters = chunks(subject)?.parameters();
    let largest = (4 * parameters.fast_cdc_2020.average).max(2 * parameters.rep_max_cdc.minimum);
    Ok(usize::try_from(2 * largest)? + 12_345)
}

/// Stores pieces of these bytes as blobs.
async fn store(subject: &Subject, function: DigestFunction, pieces: &[Bytes]) -> Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for piece in pieces {
        let digest = Digest::of(function, piece);
        subject.blobs.write_bytes(&subject.context, digest, piece.clone()).await?;
        digests.push(digest);
    }
    Ok(digests)
}

/// Ten pieces of different lengths.
fn pieces(bytes: &Bytes) -> Vec<Bytes> {
    let step = bytes.len() / 55 + 1;
    let ends = (0..=10).map(|number| (number * (number + 1) / 2 * step).min(bytes.len()));
    let ends: Vec<usize> = ends.collect();
    ends.windows(2).map(|ends| bytes.slice(ends[0]..ends[1])).filter(|piece| !piece.is_empty()).collect()
}

fn unnamed(chunks: Vec<Digest>) -> ChunkMapping {
    ChunkMapping { function: None, chunks }
}

/// That the chunks can be read and are the blob, which itself can be read, whole and in part.
async fn expect_chunks(subject: &Subject, digest: Digest, bytes: &Bytes, chunks: &[Digest]) -> Result<()> {
    let mut joined = Vec::new();
    for chunk in chunks {
        joined.extend_from_slice(&subject.fetch(*chunk, Range::ALL).await?);
    }
    ensure!(joined == *bytes, "the {} chunks of `{digest}` are {} other bytes", chunks.len(), joined.len());
    subject.expect_whole(digest, bytes).await?;
    let first = usize::try_from(chunks[0].size())?;
    for (offset, limit) in [(0, first + 1), (first - 1, 2), (first, 10), (7, bytes.len()), (bytes.len(), 5)] {
        let range = Range { offset: offset as u64, limit: Some(limit as u64) };
        let part = subject.fetch(digest, range).await?;
        let expected = bytes.slice(offset..bytes.len().min(offset + limit));
        ensure!(part == expected, "{limit} bytes at {offset} of `{digest}` are {} other bytes", part.len());
    }
    let beyond = Range { offset: digest.size() + 1, limit: None };
    let error = subject.fetch(digest, beyond).await.err().context("a read past the end succeeded")?;
    ensure!(matches!(error.kind(), Kind::OutOfRange { .. }), "a read past the end: {error}");
    Ok(())
}

pub(super) async fn a_split_blob_is_its_chunks(subject: &Subject) -> Result<()> {
    for function in FUNCTIONS {
        for (digest, bytes) in subject.fresh(large(subject)?) {
            subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
            let split = chunks(subject)?.split(&subject.context, digest, function).await?;
            ensure!(split.chunks.len() > 1, "`{digest}` was split into {} chunks", split.chunks.len());
            ensure!(split.function.is_some(), "it is not said by which function `{digest}` was split");
            expect_chunks(subject, digest, &bytes, &split.chunks).await?;
            let again = chunks(subject)?.split(&subject.context, digest, None).await?;
            ensure!(again == split, "`{digest}` was split in two ways");
        }
    }
    Ok(())
}

pub(super) async fn a_small_blob_is_its_own_chunk(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(63) {
        let missing = chunks(subject)?.split(&subject.context, digest, None).await;
        ensure!(missing.is_err_and(|error| error.is_not_found()), "`{digest}` was not written and was split");
        subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
        let split = chunks(subject)?.split(&subject.context, digest, None).await?;
        ensure!(split.chunks == [digest], "{} bytes were split into {:?}", bytes.len(), split.chunks);
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn a_missing_blob_cannot_be_split(subject: &Subject) -> Result<()> {
    for (digest, _) in subject.fresh(large(subject)?) {
        let split = chunks(subject)?.split(&subject.context, digest, None).await;
        let error = split.err().context("a missing blob was split")?;
        ensure!(error.is_not_found(), "splitting a missing blob: expected not found, got: {error}");
    }
    Ok(())
}

pub(super) async fn spliced_chunks_are_a_blob(subject: &Subject) -> Result<()> {
    for length in [100, large(subject)?] {
        for (digest, bytes) in subject.fresh(length) {
            let parts = store(subject, digest.function(), &pieces(&bytes)).await?;
            let mapping = unnamed(parts.clone());
            chunks(subject)?.splice(&subject.context, digest, mapping.clone()).await?;
            expect_chunks(subject, digest, &bytes, &parts).await?;
            chunks(subject)?.splice(&subject.context, digest, mapping).await?;
            let written = subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await;
            ensure!(written.is_ok(), "a blob that was spliced cannot be written");
            expect_chunks(subject, digest, &bytes, &parts).await?;
        }
    }
    Ok(())
}

pub(super) async fn the_chunks_of_a_spliced_blob_come_back(subject: &Subject) -> Result<()> {
    let size = usize::try_from(chunks(subject)?.parameters().rep_max_cdc.minimum)?;
    for (digest, bytes) in subject.fresh(large(subject)?) {
        // Too small to be cut, so that they are what the blob is kept as, whatever the subject cuts.
        let pieces: Vec<_> = bytes.chunks(size).map(|piece| bytes.slice_ref(piece)).collect();
        let parts = store(subject, digest.function(), &pieces).await?;
        let mapping = ChunkMapping { function: Some(ChunkingFunction::RepMaxCdc), chunks: parts };
        chunks(subject)?.splice(&subject.context, digest, mapping.clone()).await?;
        let split = chunks(subject)?.split(&subject.context, digest, None).await?;
        ensure!(split == mapping, "other chunks came back: {split:?}");
    }
    Ok(())
}

pub(super) async fn a_spliced_blob_may_be_a_chunk(subject: &Subject) -> Result<()> {
    for (inner, bytes) in subject.fresh(large(subject)?) {
        let parts = store(subject, inner.function(), &pieces(&bytes)).await?;
        chunks(subject)?.splice(&subject.context, inner, unnamed(parts)).await?;
        let tail = Random::new().bytes(10);
        let tail_digest = store(subject, inner.function(), std::slice::from_ref(&tail)).await?[0];
        let whole = Bytes::from([&bytes[..], &tail[..], &bytes[..]].concat());
        let digest = Digest::of(inner.function(), &whole);
        let mapping = unnamed(vec![inner, tail_digest, inner]);
        chunks(subject)?.splice(&subject.context, digest, mapping).await?;
        expect_chunks(subject, digest, &whole, &[inner, tail_digest, inner]).await?;
    }
    Ok(())
}

pub(super) async fn a_blob_that_is_split_stays_a_chunk(subject: &Subject) -> Result<()> {
    for (inner, bytes) in subject.fresh(large(subject)?) {
        let tail = Random::new().bytes(10);
        let parts = store(subject, inner.function(), &[bytes.clone(), tail.clone()]).await?;
        let whole = Bytes::from([&bytes[..], &tail[..]].concat());
        let digest = Digest::of(inner.function(), &whole);
        chunks(subject)?.splice(&subject.context, digest, unnamed(parts.clone())).await?;
        chunks(subject)?.split(&subject.context, inner, None).await?;
        expect_chunks(subject, digest, &whole, &parts).await?;
        let split = chunks(subject)?.split(&subject.context, digest, None).await?;
        expect_chunks(subject, digest, &whole, &split.chunks).await?;
    }
    Ok(())
}

pub(super) async fn a_splice_that_does_not_match_leaves_nothing(subject: &Subject) -> Result<()> {
    for length in [100, large(subject)?] {
        for (digest, bytes) in subject.fresh(length) {
            let parts = store(subject, digest.function(), &pieces(&bytes)).await?;
            let mut turned = parts.clone();
            turned.reverse();
            for wrong in [turned, parts[1..].to_vec(), [&parts[..], &parts[..1]].concat(), vec![]] {
                let spliced = chunks(subject)?.splice(&subject.context, digest, unnamed(wrong)).await;
                let error = spliced.err().context("other chunks were spliced to a blob")?;
                let refused = matches!(error.kind(), Kind::Mismatch { .. } | Kind::InvalidArgument { .. });
                ensure!(refused, "splicing other chunks: expected a mismatch, got: {error}");
                subject.expect_missing(digest).await?;
            }
            chunks(subject)?.splice(&subject.context, digest, unnamed(parts)).await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn a_splice_names_the_missing_chunk(subject: &Subject) -> Result<()> {
    for length in [100, large(subject)?] {
        for (digest, bytes) in subject.fresh(length) {
            let pieces = pieces(&bytes);
            let mut parts = store(subject, digest.function(), &pieces[..2]).await?;
            parts.extend(pieces[2..].iter().map(|piece| Digest::of(digest.function(), piece)));
            store(subject, digest.function(), &pieces[3..]).await?;
            let spliced = chunks(subject)?.splice(&subject.context, digest, unnamed(parts.clone())).await;
            let error = spliced.err().context("a blob was spliced without one of its chunks")?;
            let named = error.to_string().contains(&parts[2].hex());
            ensure!(error.is_not_found() && named, "expected `{}` to be not found, got: {error}", parts[2]);
            subject.expect_missing(digest).await?;
            store(subject, digest.function(), &pieces[2..3]).await?;
            chunks(subject)?.splice(&subject.context, digest, unnamed(parts)).await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}
