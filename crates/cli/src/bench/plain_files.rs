//! The plainest durable store there is, to compare others with: one file a blob. A write is a temporary file, an fsync, a
//! rename and an fsync of the directory; a look is a `stat`. Nothing is evicted, and what is read is not checked.

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use mortar_model::{Blame, Blob, BlobStore, Context, Digest, DigestSet, Error, Kind, Range, Result};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::task::spawn_blocking;

/// How much is read at a time.
const PIECE: usize = 256 << 10;

/// Blobs as files in 256 directories.
#[derive(Clone)]
pub(super) struct PlainFiles {
    root: Arc<Path>,
    writes: Arc<AtomicU64>,
}

impl PlainFiles {
    /// The store in a directory, which is made.
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        let made =
            |path: &Path| fs::create_dir_all(path).with_context(|| format!("making `{}`", path.display()));
        made(&root.join("tmp"))?;
        for first in 0..=u8::MAX {
            made(&root.join(format!("{first:02x}")))?;
        }
        // Names that no earlier process has used.
        let writes = uuid::Uuid::new_v4().as_u64_pair().0;
        Ok(Self { root: root.into(), writes: Arc::new(AtomicU64::new(writes)) })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(&hex[..2]).join(format!("{hex}-{}", digest.size()))
    }

    fn open_at(&self, digest: Digest, offset: u64) -> Result<File> {
        let mut file = File::open(self.path(digest)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::not_found("blob", digest),
            _ => Error::io("opening a blob's file", error),
        })?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| Error::io("seeking in a blob's file", error))?;
        Ok(file)
    }

    /// Makes the content durable under its name.
    fn settle(&self, file: &File, temporary: &Path, digest: Digest) -> Result<()> {
        let path = self.path(digest);
        let directory = path.parent().expect("a blob's file is in a directory");
        file.sync_all().map_err(|error| Error::io("syncing a blob's file", error))?;
        fs::rename(temporary, &path).map_err(|error| Error::io("renaming a blob's file", error))?;
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::io("syncing a directory of blobs", error))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let stopped = |_| Error::new(Kind::Cancelled { message: "the bench is stopping".into() });
    spawn_blocking(work).await.map_err(stopped)?
}

#[async_trait]
impl BlobStore for PlainFiles {
    async fn read(&self, _: &Context, digest: Digest, range: Range) -> Result<Blob> {
        let (offset, length) = range.within(digest)?;
        if digest.is_empty() {
            return Ok(Blob::bytes(Bytes::new()));
        }
        let store = self.clone();
        let file = blocking(move || store.open_at(digest, offset)).await?;
        let pieces = stream::try_unfold((file, length), |(mut file, left)| async move {
            let length = left.min(PIECE as u64);
            if length == 0 {
                return Ok(None);
            }
            let (piece, file) = blocking(move || {
                let mut piece = vec![0; length as usize];
                file.read_exact(&mut piece).map_err(|error| Error::io("reading a blob's file", error))?;
                Ok((Bytes::from(piece), file))
            })
            .await?;
            Ok(Some((piece, (file, left - length))))
        });
        Ok(Blob::stream(length, pieces.fuse()))
    }

    async fn write(&self, _: &Context, digest: Digest, blob: Blob) -> Result<()> {
        let mut content = blob.verified(digest, Blame::Client)?.into_stream();
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join("tmp").join(format!("{number:016x}"));
        let path = temporary.clone();
        let open = move || File::create(path).map_err(|error| Error::io("making a blob's file", error));
        let mut file = blocking(open).await?;
        while let Some(piece) = content.next().await {
            let Ok(piece) = piece else {
                // What a broken write leaves is of no use to anybody.
                let _ = fs::remove_file(&temporary);
                return piece.map(drop);
            };
            file = blocking(move || {
                file.write_all(&piece).map_err(|error| Error::io("writing a blob's file", error))?;
                Ok(file)
            })
            .await?;
        }
        let store = self.clone();
        blocking(move || store.settle(&file, &temporary, digest)).await
    }

    async fn find_missing(&self, _: &Context, digests: &DigestSet) -> Result<DigestSet> {
        let (store, digests) = (self.clone(), digests.clone());
        let missing = move |digest: &Digest| !digest.is_empty() && !store.path(*digest).exists();
        blocking(move || Ok(digests.into_iter().filter(missing).collect())).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_testkit::conformance::{Subject, assert_conforms};

    #[tokio::test(flavor = "multi_thread")]
    async fn it_conforms() {
        let directory = tempfile::tempdir().unwrap();
        let store = PlainFiles::open(directory.path()).unwrap();
        assert_conforms(&Subject::new(Arc::new(store))).await;
        // But for one that was dropped in the middle, nothing temporary is left.
        assert!(fs::read_dir(directory.path().join("tmp")).unwrap().count() <= 4);
    }
}
