//! Checks of blobs that are read and written as zstd frames.

use super::{Random, Subject, uploads::new_id};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::TryStreamExt;
use mortar_model::{
    Blame, BlobStoreExt, Digest, EncodedBlobs, Encoding, Kind, Range, Upload, UploadSessions,
};
use std::sync::LazyLock;

const LENGTH: usize = 1_000_000;

fn encoded(subject: &Subject) -> Result<&dyn EncodedBlobs> {
    subject.encoded.as_deref().context("the subject has no encodings")
}

/// Content that compresses well, and content that does not, of each digest function.
fn contents(subject: &Subject, length: usize) -> Vec<(Digest, Bytes)> {
    let functions = subject.functions.iter();
    let text = functions.map(|function| {
        let words = Random::new().bytes(length / 4 + 8);
        let hex: Bytes = words.iter().flat_map(|byte| format!("{byte:04x} ").into_bytes()).collect();
        let text = hex.slice(..length);
        (Digest::of(*function, &text), text)
    });
    text.chain(subject.fresh(length)).collect()
}

/// One frame of all, as most clients send it.
fn frame(content: &[u8]) -> Result<Bytes> {
    Ok(zstd::encode_all(content, 3)?.into())
}

/// Many frames, skippable ones among them.
fn frames(content: &[u8]) -> Result<Bytes> {
    let skippable = [&0x184d_2a5a_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"...".as_slice()].concat();
    let mut frames = Vec::new();
    for part in content.chunks(content.len() / 3 + 1) {
        frames.extend_from_slice(&zstd::encode_all(part, 1)?);
        frames.extend_from_slice(&skippable);
    }
    Ok(frames.into())
}

/// 100 MiB of nothing.
static BOMB: LazyLock<Bytes> =
    LazyLock::new(|| frame(&vec![0; 100 * 1024 * 1024]).expect("memory can be compressed"));

/// Frames that should not be taken for this blob, and what they are.
fn impostors(bytes: &Bytes) -> Result<Vec<(&'static str, Bytes)>> {
    let mut other = bytes.to_vec();
    other[0] ^= 1;
    let good = frame(bytes)?;
    Ok(vec![
        ("garbage", Random::new().bytes(bytes.len())),
        ("other content", frame(&other)?),
        ("content that is too short", frame(&bytes[1..])?),
        ("content that is too long", frame(&[bytes, &b"!"[..]].concat())?),
        ("a frame that is cut off", good.slice(..good.len() - 1)),
        ("garbage after a frame", [&good[..], b"garbage"].concat().into()),
        ("a second frame", [&good[..], &frame(b"!")?].concat().into()),
        ("no frames", Bytes::new()),
        ("a bomb", BOMB.clone()),
    ])
}

async fn fetch(subject: &Subject, digest: Digest, range: Range) -> Result<Vec<u8>> {
    let stream = encoded(subject)?.read_zstd(&subject.context, digest, range).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    zstd::decode_all(&pieces.concat()[..]).context("what was read is no zstd")
}

pub(super) async fn a_blob_is_read_as_zstd(subject: &Subject) -> Result<()> {
    for length in [1, 100, 10_000, 256 * 1024, 3_000_000] {
        for (digest, bytes) in contents(subject, length) {
            subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
            let read = fetch(subject, digest, Range::ALL).await?;
            ensure!(read == bytes, "`{digest}` was read as zstd with other content, of {} bytes", read.len());
        }
    }
    for function in &subject.functions {
        let read = fetch(subject, Digest::empty(*function), Range::ALL).await?;
        ensure!(read.is_empty(), "the empty blob was read as zstd of {} bytes", read.len());
    }
    Ok(())
}

pub(super) async fn ranges_of_zstd_are_exact(subject: &Subject) -> Result<()> {
    for (digest, bytes) in contents(subject, LENGTH) {
        subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
        for offset in [0, 1, 256 * 1024, 300_000, LENGTH - 1, LENGTH] {
            for limit in [None, Some(0), Some(1), Some(400_000), Some(LENGTH)] {
                let range = Range { offset: offset as u64, limit: limit.map(|limit| limit as u64) };
                let end = limit.map_or(LENGTH, |limit| LENGTH.min(offset + limit));
                let read = fetch(subject, digest, range).await.with_context(|| format!("{range:?}"))?;
                ensure!(read == bytes[offset..end], "{range:?} of `{digest}`: {} other bytes", read.len());
            }
        }
        let past = Range { offset: LENGTH as u64 + 1, limit: None };
        match fetch(subject, digest, past).await {
            Ok(_) => bail!("a read of zstd past the end of `{digest}` succeeded"),
            Err(error) => expect(&error, |kind| matches!(kind, Kind::OutOfRange { .. }))?,
        }
    }
    for (digest, _) in subject.fresh(1000) {
        match fetch(subject, digest, Range::ALL).await {
            Ok(_) => bail!("`{digest}` was not written and can be read as zstd"),
            Err(error) => expect(&error, |kind| matches!(kind, Kind::NotFound { .. }))?,
        }
    }
    Ok(())
}

fn expect(error: &anyhow::Error, is_kind: fn(&Kind) -> bool) -> Result<()> {
    let found = error.downcast_ref::<mortar_model::Error>().map(mortar_model::Error::kind);
    ensure!(found.is_some_and(is_kind), "an error of another kind was expected, got: {error:#}");
    Ok(())
}

pub(super) async fn zstd_that_is_written_comes_back(subject: &Subject) -> Result<()> {
    for length in [1, 100, 10_000, LENGTH] {
        for encode in [frame, frames] {
            for (digest, bytes) in contents(subject, length) {
                let zstd = encode(&bytes)?;
                encoded(subject)?.write_zstd(&subject.context, digest, zstd.clone()).await?;
                subject.expect_whole(digest, &bytes).await?;
                encoded(subject)?.write_zstd(&subject.context, digest, zstd).await?;
                ensure!(fetch(subject, digest, Range::ALL).await? == bytes, "`{digest}` is other zstd");
            }
        }
    }
    Ok(())
}

pub(super) async fn zstd_of_something_else_is_refused(subject: &Subject) -> Result<()> {
    for length in [1000, LENGTH] {
        for (digest, bytes) in contents(subject, length) {
            for (what, zstd) in impostors(&bytes)? {
                let written = encoded(subject)?.write_zstd(&subject.context, digest, zstd).await;
                expect_blamed_on_client(what, written)?;
                subject.expect_missing(digest).await?;
            }
            encoded(subject)?.write_zstd(&subject.context, digest, frame(&bytes)?).await?;
            subject.expect_whole(digest, &bytes).await?;
        }
    }
    Ok(())
}

fn expect_blamed_on_client(what: &str, written: mortar_model::Result<()>) -> Result<()> {
    match written {
        Ok(()) => bail!("{what} was accepted as a blob"),
        Err(error) => {
            ensure!(error.blame() == Blame::Client, "{what}: expected blame for the client, got: {error}");
            Ok(())
        }
    }
}

fn uploads(subject: &Subject) -> Result<&dyn UploadSessions> {
    subject.uploads.as_deref().context("the subject has no uploads")
}

/// Sends `zstd` from where the upload stands, in pieces, and ends it.
async fn send(mut upload: Box<dyn Upload>, zstd: &Bytes, step: usize) -> mortar_model::Result<()> {
    let mut at = upload.committed() as usize;
    while at < zstd.len() {
        let end = zstd.len().min(at + step);
        upload.write(zstd.slice(at..end)).await?;
        at = end;
    }
    upload.finish().await
}

pub(super) async fn a_compressed_upload_comes_back(subject: &Subject) -> Result<()> {
    for (length, step) in [(1, 1), (1000, 7), (LENGTH, 50_000), (LENGTH, LENGTH)] {
        for encode in [frame, frames] {
            for (digest, bytes) in contents(subject, length) {
                let upload =
                    uploads(subject)?.open(&subject.context, &new_id(), digest, Encoding::Zstd).await?;
                send(upload, &encode(&bytes)?, step).await?;
                subject.expect_whole(digest, &bytes).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn a_compressed_upload_resumes_where_it_was_left(subject: &Subject) -> Result<()> {
    for (digest, bytes) in contents(subject, LENGTH) {
        let (id, zstd) = (new_id(), frames(&bytes)?);
        let open =
            || uploads(subject).map(|uploads| uploads.open(&subject.context, &id, digest, Encoding::Zstd));
        for reached in [3, 1000, zstd.len() / 2, zstd.len() - 1] {
            let mut upload = open()?.await?;
            upload.write(zstd.slice(upload.committed() as usize..reached)).await?;
            ensure!(upload.committed() == reached as u64, "{} bytes are committed", upload.committed());
            drop(upload);
            let committed = uploads(subject)?.committed(&subject.context, &id).await?;
            ensure!(
                committed == Some(reached as u64),
                "{reached} bytes were sent, {committed:?} are committed"
            );
            subject.expect_missing(digest).await?;
        }
        send(open()?.await?, &zstd, 50_000).await?;
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}

pub(super) async fn a_compressed_upload_of_something_else_is_discarded(subject: &Subject) -> Result<()> {
    for (digest, bytes) in contents(subject, LENGTH) {
        let id = new_id();
        for (what, zstd) in impostors(&bytes)? {
            let upload = uploads(subject)?.open(&subject.context, &id, digest, Encoding::Zstd).await?;
            ensure!(upload.committed() == 0, "of a discarded upload {} bytes are kept", upload.committed());
            expect_blamed_on_client(what, send(upload, &zstd, 100_000).await)?;
            subject.expect_missing(digest).await?;
        }
        let upload = uploads(subject)?.open(&subject.context, &id, digest, Encoding::Zstd).await?;
        send(upload, &frame(&bytes)?, 100_000).await?;
        subject.expect_whole(digest, &bytes).await?;
    }
    Ok(())
}
