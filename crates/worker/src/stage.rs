//! Builds the input root on disk: exactly what was declared, and the directories that outputs need.
//!
//! A file that is executable and has no further attributes is a hard link to the store's own, where there is one: the
//! sandbox keeps it from being changed. Everything else is a copy: attributes belong to the file, not to its name. So
//! is an input in the place of an output, and all inputs where the sandbox does not protect them.

use crate::{
    blocking::blocking,
    config::Stores,
    fetch::absent,
    job::Job,
    outputs::Places,
    tree::{InputFile, InputRoot},
};
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{Digest, Error, LocalFile, NodeProperties, Range, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio::io::AsyncWriteExt;

/// Files that are asked for, or copied, at the same time.
const AT_ONCE: usize = 16;

/// Who may do what with the files that are staged.
#[derive(Clone, Copy, Debug)]
pub struct Protection {
    /// Whether the store's own files may be linked to.
    pub link: bool,
    /// The identity of the command, where it is not ours.
    pub owner: Option<(u32, u32)>,
}

/// Everything about an input root.
#[derive(Debug)]
pub struct Plan {
    /// What was declared.
    pub root: InputRoot,
    /// What outputs need.
    pub places: Places,
    /// Where it is built; made here.
    pub exec: PathBuf,
    /// How inputs are protected.
    pub protection: Protection,
}

/// Builds the input root; gives the plan back for what comes after.
pub async fn stage(job: &Job, stores: &Stores, plan: Plan) -> Result<Plan> {
    let plan = Arc::new(plan);
    let local = local_files(job, stores, &plan).await?;
    job.check()?;
    let linking = Arc::clone(&plan);
    let copies = blocking(move || linking.build(&local)).await?;
    let copies = copies.into_iter().map(|index| copy(job, stores, &plan, index));
    stream::iter(copies).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let finishing = Arc::clone(&plan);
    blocking(move || finishing.finish()).await?;
    Arc::into_inner(plan).ok_or_else(|| Error::internal("the plan of an input root is still in use"))
}

/// The store's files of those inputs that can use them.
async fn local_files(job: &Job, stores: &Stores, plan: &Plan) -> Result<HashMap<Digest, LocalFile>> {
    let Some(local) = &stores.local else { return Ok(HashMap::new()) };
    let wanted: mortar_model::DigestSet = plan.root.files.iter().map(|file| file.digest).collect();
    let asked = wanted.into_iter().map(|digest| async move {
        let found = job.unless_cancelled(local.local_file(&job.context, digest)).await?;
        Ok(found.map(|file| (digest, file)))
    });
    let found = stream::iter(asked).buffer_unordered(AT_ONCE);
    found.try_filter_map(|found| async move { Ok(found) }).try_collect().await
}

/// Writes a copy out of the store.
async fn copy(job: &Job, stores: &Stores, plan: &Plan, index: usize) -> Result<()> {
    let file = &plan.root.files[index];
    let path = plan.exec.join(&file.path);
    let failed = |error| cannot("write the input", &file.path)(error);
    let mut target = tokio::fs::File::create(&path).await.map_err(failed)?;
    if file.digest.size() > 0 {
        let read = job.unless_cancelled(stores.blobs.read(&job.context, file.digest, Range::ALL)).await;
        let mut chunks = read.map_err(|error| missing_if_gone(file.digest, error))?.into_stream();
        while let Some(chunk) = job.unless_cancelled(chunks.try_next()).await? {
            target.write_all(&chunk).await.map_err(failed)?;
        }
        target.flush().await.map_err(failed)?;
    }
    drop(target);
    plan.dress(file).map_err(failed)
}

fn missing_if_gone(digest: Digest, error: Error) -> Error {
    if error.is_not_found() { absent([digest]) } else { error }
}

/// An error about a path in the input root, which the client knows by that name.
fn cannot(what: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let action = format!("{what} `{}`", path.display());
    move |error| Error::io(action.clone(), error)
}

impl Plan {
    /// Makes directories, links to files, local copies and symbolic links; tells which files are left to copy.
    fn build(&self, local: &HashMap<Digest, LocalFile>) -> Result<Vec<usize>> {
        let directories = self.root.directories.iter().map(|(path, _)| path);
        for path in directories.chain(&self.places.create) {
            make_directory(&self.exec.join(path)).map_err(cannot("create the directory", path))?;
        }
        for link in &self.root.links {
            let failed = cannot("create the symbolic link", &link.path);
            let path = self.exec.join(&link.path);
            symlink(&link.target, &path).map_err(&failed)?;
            touch(&path, link.properties.as_ref()).map_err(&failed)?;
        }
        let mut left = Vec::new();
        for (index, file) in self.root.files.iter().enumerate() {
            match local.get(&file.digest) {
                Some(source) => self.place(file, source).map_err(cannot("place the input", &file.path))?,
                None => left.push(index),
            }
        }
        Ok(left)
    }

    fn place(&self, file: &InputFile, source: &LocalFile) -> io::Result<()> {
        let path = self.exec.join(&file.path);
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
        self.protection.link && plain && !self.places.writable.contains(&file.path)
    }

    /// Owner, mode and time of a copy.
    fn dress(&self, file: &InputFile) -> io::Result<()> {
        let path = self.exec.join(&file.path);
        let writable = self.places.writable.contains(&file.path);
        let mode = match file.properties.as_ref().and_then(|wanted| wanted.unix_mode) {
            // Neither set-uid nor set-gid: they mean nothing in the sandbox, and nothing good outside it.
            Some(mode) => mode & 0o777,
            None => 0o444 | if file.is_executable { 0o111 } else { 0 } | if writable { 0o200 } else { 0 },
        };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = self.protection.owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        touch(&path, file.properties.as_ref())
    }

    /// Gives directories to the command that it may write to, and sets what would have been lost while they were
    /// filled: times and modes, of children before their parents.
    fn finish(&self) -> Result<()> {
        if let Some((uid, gid)) = self.protection.owner {
            for path in &self.places.writable {
                let failed = cannot("give away the directory", path);
                chown(self.exec.join(path), Some(uid), Some(gid)).map_err(failed)?;
            }
        }
        for (path, properties) in self.root.directories.iter().rev() {
            let failed = cannot("set the attributes of", path);
            let full = self.exec.join(path);
            touch(&full, properties.as_ref()).map_err(&failed)?;
            let Some(mode) = properties.as_ref().and_then(|wanted| wanted.unix_mode) else { continue };
            fs::set_permissions(&full, Permissions::from_mode(mode & 0o777)).map_err(&failed)?;
            if let Some((uid, gid)) = self.protection.owner {
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

/// A directory that everybody may read, whatever this process's own habits: the command may be somebody else.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}
