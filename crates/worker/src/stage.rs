//! Sees to the input root: exactly what was declared, and the directories that outputs need.
//!
//! A root worth it is one of the cache's, over which the sandbox lays the run's own directory; that holds what the
//! command may write to, and nothing else. A small one, one with attributes that belong to this action's files alone, and
//! every one where the kernel has no overlay for us, is built for the action alone (`alone`).

use crate::{
    alone,
    blocking::blocking,
    cache::{DirectoryCache, Lease},
    config::Stores,
    job::Job,
    outputs::Places,
    source::Source,
    tree::{Kind, Tree},
};
use mortar_model::{Error, Result};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A root of fewer files, directories and links is made as fast as it is found and mounted.
const WORTH_KEEPING: u64 = 64;

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
    pub root: Arc<Tree>,
    /// What outputs need.
    pub places: Places,
    /// Where it is built; made here.
    pub exec: PathBuf,
    /// How inputs are protected.
    pub protection: Protection,
}

/// An input root that is there.
pub struct Staged {
    /// What outputs need.
    pub places: Places,
    /// What it is laid over, if it is.
    pub lower: Option<Lease>,
}

/// Sees to the input root.
pub async fn stage(job: &Job, stores: &Stores, cache: Option<&DirectoryCache>, plan: Plan) -> Result<Staged> {
    let source = Source { job, stores };
    let cache = cache.filter(|_| plan.root.is_plain && plan.root.nodes >= WORTH_KEEPING);
    let Some(cache) = cache else {
        let plan = alone::build(&source, plan).await?;
        return Ok(Staged { places: plan.places, lower: None });
    };
    let lower = cache.root(&plan.root, &source).await?;
    let below = lower.clone();
    let places = blocking(move || {
        plan.open(&below)?;
        Ok(plan.places)
    });
    Ok(Staged { places: places.await?, lower: Some(lower) })
}

impl Plan {
    /// Makes the run's own layer: the directories of outputs with those that they are in, and copies of the inputs that
    /// the command may change. A directory that is in both layers is seen with what both hold.
    fn open(&self, lower: &Lease) -> Result<()> {
        make_directory(&self.exec).map_err(cannot("create the directory", Path::new("")))?;
        for path in self.places.create.iter().chain(&self.places.writable) {
            let is_file = self.root.kind(path) == Some(Kind::File);
            let directory = if is_file { path.parent().unwrap_or(Path::new("")) } else { path };
            make_directories(&self.exec, directory).map_err(cannot("create the directory", path))?;
            if is_file {
                self.copy(path, lower).map_err(cannot("place the input", path))?;
            }
        }
        let Some((uid, gid)) = self.protection.owner else { return Ok(()) };
        for path in &self.places.writable {
            let failed = cannot("give away the directory", path);
            chown(self.exec.join(path), Some(uid), Some(gid)).map_err(failed)?;
        }
        Ok(())
    }

    fn copy(&self, path: &Path, lower: &Lease) -> io::Result<()> {
        let layers = lower.layers().into_iter();
        let found = layers.map(|layer| layer.join(path)).find(|path| path.exists());
        let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let copy = self.exec.join(path);
        fs::copy(&found, &copy)?;
        let mode = fs::symlink_metadata(&found)?.permissions().mode() & 0o777 | 0o200;
        fs::set_permissions(&copy, Permissions::from_mode(mode))
    }
}

/// An error about a path in the input root, which the client knows by that name.
pub fn cannot(what: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let action = format!("{what} `{}`", path.display());
    move |error| Error::io(action.clone(), error)
}

/// A directory that everybody may read, whatever this process's own habits: the command may be somebody else.
pub fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Makes those of the directories on a way that are not there.
fn make_directories(top: &Path, path: &Path) -> io::Result<()> {
    let mut reached = top.to_owned();
    for part in path.components() {
        reached.push(part);
        match make_directory(&reached) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    Ok(())
}
