//! Checks of uploads that are continued over several calls.

use super::{Random, Subject};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use mortar_model::{Blame, Digest, Encoding, Kind, Upload, UploadId, UploadSessions};

const LENGTH: usize = 1_000_000;

fn uploads(subject: &Subject) -> Result<&dyn UploadSessions> {
    subject.uploads.as_deref().context("the subject has no uploads")
}

pub(super) fn new_id() -> UploadId {
    let mut random = Random::new();
    let words = [random.number(), random.number()].map(|word| format!("{word:016x}"));
    let [a, b] = &words;
    // As a UUID, which the protocol asks for.
    UploadId(format!("{}-{}-4{}-8{}-{}", &a[..8], &a[8..12], &a[13..], &b[1..4], &b[4..]).into())
}

async fn open(subject: &Subject, id: &UploadId, digest: Digest) -> Result<Box<dyn Upload>> {
    Ok(uploads(subject)?.open(&subject.context, id, digest, Encoding::Identity).await?)
}

/// Writes `bytes` from where the upload stands, in pieces.
async fn write_from_committed(upload: &mut dyn Upload, bytes: &Bytes) -> mortar_model::Result<()> {
    let mut at = upload.committed() as usize;
    while at < bytes.len() {
        let end = bytes.len().min(at + 50_000);
        upload.write(bytes.slice(at..end)).await?;
        at = end;
    }
    Ok(())
}

pub(super) async fn an_upload_in_pieces_comes_back(subject: &Subject) -> Result<()> {
    for length in [1, 100, LENGTH] {
        for (digest, bytes) in subject.fresh(length) {
            let mut upload = open(subject, &new_id(), digest).await?;
            write_from_committed(&mut *upload, &bytes).await?;
            ensure!(upload.committed() == digest.size(), "{} bytes are committed", upload.committed());
            upload.finish().await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}

pub(super) async fn an_upload_resumes_where_it_was_left(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(LENGTH) {
        let id = new_id();
        for reached in [300, 10_000, LENGTH / 2, LENGTH - 1] {
            let mut upload = open(subject, &id, digest).await?;
            write_from_committed(&mut *upload, &bytes.slice(..reached)).await?;
            drop(upload);
            let committed = uploads(subject)?.committed(&subject.context, &id).await?;
            ensure!(
                committed == Some(reached as u64),
                "{reached} bytes were taken, {committed:?} are committed"
            );
            subject.expect_missing(digest).await?;
        }
        let mut upload = open(subject, &id, digest).await?;
        write_from_committed(&mut *upload, &bytes).await?;
        upload.finish().await?;
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn an_upload_can_be_taken_over(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(LENGTH) {
        let id = new_id();
        let mut first = open(subject, &id, digest).await?;
        first.write(bytes.slice(..LENGTH / 2)).await?;
        let mut second = open(subject, &id, digest).await?;
        match first.write(bytes.slice(LENGTH / 2..)).await {
            Ok(()) => anyhow::bail!("an upload that was taken over can still be written"),
            Err(error) => {
                ensure!(matches!(error.kind(), Kind::Aborted { .. }), "expected aborted, got: {error}");
            }
        }
        ensure!(first.finish().await.is_err(), "an upload that was taken over can still be finished");
        write_from_committed(&mut *second, &bytes).await?;
        second.finish().await?;
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn an_upload_that_does_not_match_is_discarded(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(LENGTH) {
        let id = new_id();
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        let mut upload = open(subject, &id, digest).await?;
        write_from_committed(&mut *upload, &other.into()).await?;
        expect_blamed_on_client(upload.finish().await)?;
        subject.expect_missing(digest).await?;
        let mut again = open(subject, &id, digest).await?;
        ensure!(again.committed() == 0, "of a discarded upload {} bytes are committed", again.committed());
        write_from_committed(&mut *again, &bytes).await?;
        again.finish().await?;
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn an_upload_that_is_too_long_is_refused(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(LENGTH) {
        let mut upload = open(subject, &new_id(), digest).await?;
        write_from_committed(&mut *upload, &bytes).await?;
        let written = upload.write(Bytes::from_static(b"!")).await;
        expect_blamed_on_client(match written {
            Ok(()) => upload.finish().await,
            refused => refused,
        })?;
        subject.expect_missing(digest).await?;
    }
    Ok(())
}

pub(super) async fn an_upload_that_is_too_short_is_refused(subject: &Subject) -> Result<()> {
    for (digest, bytes) in subject.fresh(LENGTH) {
        let mut upload = open(subject, &new_id(), digest).await?;
        write_from_committed(&mut *upload, &bytes.slice(..LENGTH - 1)).await?;
        expect_blamed_on_client(upload.finish().await)?;
        subject.expect_missing(digest).await?;
    }
    Ok(())
}

pub(super) async fn an_unknown_upload_has_nothing_committed(subject: &Subject) -> Result<()> {
    let committed = uploads(subject)?.committed(&subject.context, &new_id()).await?;
    ensure!(
        committed.is_none_or(|bytes| bytes == 0),
        "of an unknown upload {committed:?} bytes are committed"
    );
    Ok(())
}

fn expect_blamed_on_client(finished: mortar_model::Result<()>) -> Result<()> {
    match finished {
        Ok(()) => anyhow::bail!("content that does not match its digest was accepted"),
        Err(error) => {
            ensure!(error.blame() == Blame::Client, "expected an error that blames the client, got: {error}");
            Ok(())
        }
    }
}
