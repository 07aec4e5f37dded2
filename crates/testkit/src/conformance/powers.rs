//! Checks of the smaller traits.

use super::{Random, Subject};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use mortar_model::{BlobStoreExt, Digest};
use std::os::unix::fs::PermissionsExt;

pub(super) async fn a_blob_is_found_by_its_hash(subject: &Subject) -> Result<()> {
    let hashes = subject.hashes.as_deref().context("the subject has no index of hashes")?;
    for (digest, bytes) in subject.fresh(1000) {
        let lookup = || hashes.lookup(&subject.context, digest.function(), digest.hash());
        ensure!(lookup().await?.is_none(), "`{digest}` was not written and is found by its hash");
        subject.blobs.write_bytes(&subject.context, digest, bytes).await?;
        let found = lookup().await?;
        ensure!(found == Some(digest), "`{digest}` was written; by its hash {found:?} is found");
        let empty = Digest::empty(digest.function());
        let found = hashes.lookup(&subject.context, empty.function(), empty.hash()).await?;
        ensure!(found == Some(empty), "by the hash of the empty blob {found:?} is found");
    }
    Ok(())
}

pub(super) async fn values_come_back_and_are_replaced(subject: &Subject) -> Result<()> {
    let values = subject.values.as_deref().context("the subject keeps no values")?;
    let key = *Random::new().blob(Default::default(), 32).0.hash();
    ensure!(values.get(&subject.context, &key).await?.is_none(), "an unknown key has a value");
    for length in [3, 0, 2_000_000] {
        let value = Random::new().bytes(length);
        values.put(&subject.context, &key, value.clone()).await?;
        let found = values.get(&subject.context, &key).await?.context("a value that was put is unknown")?;
        ensure!(found == value, "{} other bytes came back", found.len());
    }
    if let Some(other) = subject.other_instance.clone() {
        let other = subject.context.clone().with_instance(other);
        ensure!(values.get(&other, &key).await?.is_none(), "an instance has the value of another one");
    }
    Ok(())
}

pub(super) async fn a_blob_is_a_file(subject: &Subject) -> Result<()> {
    let files = subject.files.as_deref().context("the subject has no files")?;
    let empty = subject.functions.iter().map(|function| (Digest::empty(*function), Bytes::new()));
    for (digest, bytes) in subject.fresh(1_000_000).into_iter().chain(empty) {
        if !bytes.is_empty() {
            let early = files.local_file(&subject.context, digest).await?;
            ensure!(early.is_none(), "`{digest}` was not written and has a file");
            subject.blobs.write_bytes(&subject.context, digest, bytes.clone()).await?;
        }
        let file = files.local_file(&subject.context, digest).await?;
        let file = file.with_context(|| format!("`{digest}` has no file"))?;
        ensure!(tokio::fs::read(file.path()).await? == bytes, "the file of `{digest}` has other content");
        let mode = tokio::fs::metadata(file.path()).await?.permissions().mode() & 0o7777;
        ensure!(mode == 0o555, "the file of `{digest}` has mode {mode:o}, expected 555");
    }
    Ok(())
}
