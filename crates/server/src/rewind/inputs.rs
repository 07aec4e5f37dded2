//! Which blobs of an action cannot be read: all of them are read to their ends. Done only once one of them has turned out
//! to be damaged.

use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    BlobStore, BlobStoreExt, Context, Digest, DigestSet, Directory, Error, Kind, Range, Result,
};
use mortar_services::limits::MAX_PROTO_BLOB;

use super::AT_ONCE;

/// The blobs of an action that cannot be read: its own messages, those of its input tree, and files. What is below a
/// directory that cannot be read is not among them.
pub(super) async fn unreadable(
    blobs: &dyn BlobStore,
    context: &Context,
    action: Digest,
) -> Result<DigestSet> {
    let walk = Walk { blobs, context };
    let Some(bytes) = walk.message(action).await? else { return Ok(DigestSet::from_iter([action])) };
    let Ok(decoded) = mortar_wire::decode_action(action.function(), bytes) else {
        return Ok(DigestSet::new());
    };
    let (mut lost, mut files) = (DigestSet::new(), DigestSet::from_iter([decoded.command_digest]));
    let mut level = DigestSet::from_iter([decoded.input_root_digest]);
    let mut known = level.clone();
    while !level.is_empty() {
        let reads = level.into_iter().map(|digest| walk.directory(digest));
        let read: Vec<_> = stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await?;
        level = DigestSet::new();
        for (digest, directory) in read {
            let Some(directory) = directory else {
                lost.insert(digest);
                continue;
            };
            files.extend(directory.files.iter().map(|file| file.digest));
            let children = directory.directories.iter().map(|node| node.digest);
            level.extend(children.filter(|digest| known.insert(*digest)));
        }
    }
    let checks = files.into_iter().map(|digest| walk.is_lost(digest));
    let checked: Vec<Option<Digest>> = stream::iter(checks).buffer_unordered(AT_ONCE).try_collect().await?;
    lost.extend(checked.into_iter().flatten());
    Ok(lost)
}

struct Walk<'a> {
    blobs: &'a dyn BlobStore,
    context: &'a Context,
}

impl Walk<'_> {
    /// The bytes of a message; none if it is lost.
    async fn message(&self, digest: Digest) -> Result<Option<bytes::Bytes>> {
        unless_lost(self.blobs.read_all(self.context, digest, MAX_PROTO_BLOB).await)
    }

    /// A directory; none if it is lost. One that is malformed has nothing in it: the worker tells of it.
    async fn directory(&self, digest: Digest) -> Result<(Digest, Option<Directory>)> {
        let Some(bytes) = self.message(digest).await? else { return Ok((digest, None)) };
        Ok((digest, Some(mortar_wire::decode_directory(digest.function(), bytes).unwrap_or_default())))
    }

    /// The digest of a blob that cannot be read to its end.
    async fn is_lost(&self, digest: Digest) -> Result<Option<Digest>> {
        let whole = async {
            let mut stream = self.blobs.read(self.context, digest, Range::ALL).await?.into_stream();
            while stream.try_next().await?.is_some() {}
            Ok(())
        };
        Ok(unless_lost(whole.await)?.is_none().then_some(digest))
    }
}

fn unless_lost<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(whole) => Ok(Some(whole)),
        Err(error) if is_loss(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that stored content is gone or damaged.
pub(super) fn is_loss(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::NotFound { .. }
            | Kind::DataLoss { .. }
            | Kind::Mismatch { source_of_content: mortar_model::Blame::Server, .. }
    )
}
