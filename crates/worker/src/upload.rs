//! Stores what was collected; what the store has already is not sent. Large files are streamed.

use crate::{
    blocking::blocking,
    collect::{Collected, Content},
    job::Job,
};
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{Blob, BlobStore, Digest, DigestSet, Error, Result};
use std::{collections::HashMap, io::Read};
use tokio_util::io::ReaderStream;

/// Blobs that are on their way at the same time.
const AT_ONCE: usize = 8;
/// The largest file that is sent in one piece, in bytes.
const ONE_PIECE: u64 = 256 * 1024;

/// Stores every blob that is not there yet.
pub async fn upload(job: &Job, blobs: &dyn BlobStore, collected: &mut Collected) -> Result<()> {
    let contents: HashMap<Digest, Content> = collected.blobs.drain(..).collect();
    let all: DigestSet = contents.keys().copied().collect();
    if all.is_empty() {
        return Ok(());
    }
    let missing = job.unless_cancelled(blobs.find_missing(&job.context, &all)).await?;
    let writes = missing.into_iter().filter_map(|digest| {
        let content = contents.get(&digest)?.clone();
        Some(async move {
            let blob = open(digest, content).await?;
            job.unless_cancelled(blobs.write(&job.context, digest, blob)).await
        })
    });
    stream::iter(writes).buffer_unordered(AT_ONCE).try_collect().await
}

async fn open(digest: Digest, content: Content) -> Result<Blob> {
    let (root, path) = match content {
        Content::Bytes(bytes) => return Ok(Blob::bytes(bytes)),
        Content::File(root, path) => (root, path),
    };
    let failed = {
        let action = format!("read the output `{}`", path.display());
        move |error| Error::io(action.clone(), error)
    };
    let opening = failed.clone();
    let opened = blocking(move || {
        let mut file = root.file(&path).map_err(&opening)?;
        if digest.size() > ONE_PIECE {
            return Ok(Err(file));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(digest.size()).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(&opening)?;
        Ok(Ok(bytes))
    });
    Ok(match opened.await? {
        Ok(bytes) => Blob::bytes(bytes),
        Err(file) => {
            let chunks = ReaderStream::with_capacity(tokio::fs::File::from_std(file), ONE_PIECE as usize);
            Blob::stream(digest.size(), chunks.map_err(failed))
        }
    })
}
