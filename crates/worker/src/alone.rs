//! Builds an input root for one action alone: exactly what was declared, and the directories that outputs need.
//!
//! A file that is executable and has no further attributes is a hard link to the store's own, where there is one: the
//! sandbox keeps it from being changed. Everything else is a copy: attributes belong to the file, not to its name. So
//! is an input in the place of an output, and all inputs where the sandbox does not protect them.

use crate::{
    blocking::blocking,
    source::{Source, gone},
    stage::{Plan, cannot, make_directory},
    tree::{InputFile, Listing},
};
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{Digest, Error, LocalFile, NodeProperties, Range, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    sync::Arc,
    time::SystemTime,
};
use tokio::io::AsyncWriteExt;

/// Files that are asked for, or copied, at the same time.
const AT_ONCE: usize = 16;

/// Builds the input root; gives the plan back for what comes after.
pub async fn build(source: &Source<'_>, plan: Plan) -> Result<Plan> {
    source.expect(plan.root.contents()).await?;
    let listing = Listing::of(&plan.root);
    let building = Arc::new(Alone { plan, listing });
    let local = local_files(source, &building.listing).await?;
    source.job.check()?;
    let linking = Arc::clone(&building);
    let copies = blocking(move || {
        let copies = linking.build(&local)?;
        // For small roots, to come back here in between takes longer than all of this.
        if copies.is_empty() {
            linking.finish()?;
        }
        Ok(copies)
    })
    .await?;
    if !copies.is_empty() {
        let copies = copies.into_iter().map(|index| copy(source, &building, index));
        stream::iter(copies).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let finishing = Arc::clone(&building);
        blocking(move || finishing.finish()).await?;
    }
    let building = Arc::into_inner(building);
    building
        .map(|building| building.plan)
        .ok_or_else(|| Error::internal("the plan of an input root is still in use"))
}

/// An input root with its parts written out.
struct Alone {
    plan: Plan,
    listing: Listing,
}

/// The store's files of those inputs that can use them.
async fn local_files(source: &Source<'_>, listing: &Listing) -> Result<HashMap<Digest, LocalFile>> {
    let wanted: mortar_model::DigestSet = listing.files.iter().map(|file| file.digest).collect();
    let asked = wanted.into_iter().map(|digest| async move {
        let found = source.lent(digest).await?;
        Ok(found.map(|file| (digest, file)))
    });
    let found = stream::iter(asked).buffer_unordered(AT_ONCE);
    found.try_filter_map(|found| async move { Ok(found) }).try_collect().await
}

/// Writes a copy out of the store.
async fn copy(source: &Source<'_>, building: &Alone, index: usize) -> Result<()> {
    let (job, file) = (source.job, &building.listing.files[index]);
    let path = building.plan.exec.join(&file.path);
    let failed = |error| cannot("write the input", &file.path)(error);
    let mut target = tokio::fs::File::create(&path).await.map_err(failed)?;
    if file.digest.size() > 0 {
        let read = source.stores.blobs.read(&job.context, file.digest, Range::ALL);
        let read = job.unless_cancelled(read).await;
        let mut chunks = read.map_err(|error| gone(file.digest, error))?.into_stream();
        while let Some(chunk) = job.unless_cancelled(chunks.try_next()).await? {
            target.write_all(&chunk).await.map_err(failed)?;
        }
        target.flush().await.map_err(failed)?;
    }
    drop(target);
    building.dress(file).map_err(failed)
}

impl Alone {
    /// Makes directories, links to files, local copies and symbolic links; tells which files are left to copy.
    fn build(&self, local: &HashMap<Digest, LocalFile>) -> Result<Vec<usize>> {
        let directories = self.listing.directories.iter().map(|(path, _)| path);
        for path in directories.chain(&self.plan.places.create) {
            make_directory(&self.plan.exec.join(path)).map_err(cannot("create the directory", path))?;
        }
        for link in &self.listing.links {
            let failed = cannot("create the symbolic link", &link.path);
            let path = self.plan.exec.join(&link.path);
            symlink(&link.target, &path).map_err(&failed)?;
            touch(&path, link.properties.as_ref()).map_err(&failed)?;
        }
        let mut left = Vec::new();
        for (index, file) in self.listing.files.iter().enumerate() {
            match local.get(&file.digest) {
                Some(source) => self.place(file, source).map_err(cannot("place the input", &file.path))?,
                None => left.push(index),
            }
        }
        Ok(left)
    }

    fn place(&self, file: &InputFile, source: &LocalFile) -> io::Result<()> {
        let path = self.plan.exec.join(&file.path);
        // A file has a largest number of names, and may lie on another file system; neither is worth an error.
        if self.may_link(file) && fs::hard_link(source.path(), &path).is_ok() {
            return Ok(());
        }
        fs::copy(source.path(), &path)?;
        self.dress(file)
    }

    fn may_link(&self, file: &InputFile) -> bool {
        let plain = file.is_executable
            && file.properties.as_ref().is_none_or(|wanted| *wanted == NodeProperties::default());
        self.plan.protection.link && plain && !self.plan.places.writable.contains(&file.path)
    }

    /// Owner, mode and time of a copy.
    fn dress(&self, file: &InputFile) -> io::Result<()> {
        let path = self.plan.exec.join(&file.path);
        let writable = self.plan.places.writable.contains(&file.path);
        let mode = match file.properties.as_ref().and_then(|wanted| wanted.unix_mode) {
            // Neither set-uid nor set-gid: they mean nothing in the sandbox, and nothing good outside it.
            Some(mode) => mode & 0o777,
            None => 0o444 | if file.is_executable { 0o111 } else { 0 } | if writable { 0o200 } else { 0 },
        };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = self.plan.protection.owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        touch(&path, file.properties.as_ref())
    }

    /// Gives directories to the command that it may write to, and sets what would have been lost while they were
    /// filled: times and modes, of children before their parents.
    fn finish(&self) -> Result<()> {
        if let Some((uid, gid)) = self.plan.protection.owner {
            for path in &self.plan.places.writable {
                let failed = cannot("give away the directory", path);
                chown(self.plan.exec.join(path), Some(uid), Some(gid)).map_err(failed)?;
            }
        }
        for (path, properties) in self.listing.directories.iter().rev() {
            let failed = cannot("set the attributes of", path);
            let full = self.plan.exec.join(path);
            touch(&full, properties.as_ref()).map_err(&failed)?;
            let Some(mode) = properties.as_ref().and_then(|wanted| wanted.unix_mode) else { continue };
            fs::set_permissions(&full, Permissions::from_mode(mode & 0o777)).map_err(&failed)?;
            if let Some((uid, gid)) = self.plan.protection.owner {
                chown(&full, Some(uid), Some(gid)).map_err(&failed)?;
            }
        }
        Ok(())
    }
}

/// Sets the time of last change, if one is wanted.
fn touch(path: &Path, properties: Option<&NodeProperties>) -> io::Result<()> {
    let Some(time) = properties.and_then(|wanted| wanted.mtime) else { return Ok(()) };
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: seconds, tv_nsec: since.subsec_nanos().into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
