//! Which blobs of an input tree are missing, for a client that has to be told of others anyhow.

use futures::{StreamExt, stream};
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestSet, Directory, Result};
use mortar_services::limits::MAX_PROTO_BLOB;

/// Directories that are read at the same time.
const READS: usize = 16;
/// Different directories that are looked into; what is below others is told once these are there.
const MAX_DIRECTORIES: usize = 100_000;

/// The blobs that are missing of the tree below `root`, level by level. What cannot be read or is malformed is passed
/// over: that is found, and told, where the action is run.
pub(crate) async fn missing_below(
    blobs: &dyn BlobStore,
    context: &Context,
    root: Digest,
) -> Result<DigestSet> {
    let mut missing = DigestSet::new();
    let (mut known, mut asked) = (DigestSet::from_iter([root]), DigestSet::from_iter([root]));
    let (mut level, mut named) = (known.clone(), known.clone());
    while !named.is_empty() {
        missing.extend(blobs.find_missing(context, &named).await?);
        let reads = level.into_iter().filter(|digest| !missing.contains(digest));
        let reads: Vec<_> = reads.map(|digest| directory(blobs, context, digest)).collect();
        (level, named) = (DigestSet::new(), DigestSet::new());
        let mut read = stream::iter(reads).buffer_unordered(READS);
        while let Some(directory) = read.next().await {
            let Some(directory) = directory else { continue };
            let children = directory.directories.iter().map(|node| node.digest);
            let contents = directory.files.iter().map(|file| file.digest);
            named.extend(contents.chain(children.clone()).filter(|digest| asked.insert(*digest)));
            if known.len() < MAX_DIRECTORIES {
                level.extend(children.filter(|digest| known.insert(*digest)));
            }
        }
    }
    Ok(missing)
}

async fn directory(blobs: &dyn BlobStore, context: &Context, digest: Digest) -> Option<Directory> {
    let bytes = blobs.read_all(context, digest, MAX_PROTO_BLOB).await.ok()?;
    mortar_wire::decode_directory(digest.function(), bytes).ok()
}
