//! What of the staged root may be written: the directories of outputs, but nothing that lay in them before.
//!
//! The staged root is mounted read-only as a whole. Over each writable directory lies a writable view of itself, and
//! over each entry of that a read-only view again, unless it is writable itself. A mount point can be neither removed
//! nor renamed, and a link cannot lead from one mount to another, so what is covered stays as it is, contents and mode,
//! whoever owns it. Symbolic links are no mount points: they are private to the run, and may be replaced in it.

use super::{
    Failure, Step,
    mounts::{self, View},
};
use crate::spec;
use nix::mount::MsFlags;
use std::{
    cell::OnceCell,
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Lays the run's own part of the staged root over `lower`, in its place, and tells whether there was anything to lay it
/// over. The working directory is the run's own.
///
/// By the `user` attributes, since those are what an ordinary user may set; and without syncing, which would be of the
/// whole file system and for nothing: whoever crashes runs the command again.
pub fn lay(lower: &[PathBuf]) -> Result<bool, Failure> {
    if lower.is_empty() {
        return Ok(false);
    }
    fs::create_dir(WORK).step(|| format!("create `{WORK}`"))?;
    let layers: Vec<_> = lower.iter().map(|path| escaped(&path.to_string_lossy())).collect();
    let (layers, exec) = (layers.join(":"), spec::EXEC);
    let options = format!("lowerdir={layers},upperdir={exec},workdir={WORK},userxattr,volatile,index=off");
    mounts::fresh("overlay", Path::new(exec), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, &options)?;
    Ok(true)
}

/// What overlay needs for itself, beside the upper layer.
const WORK: &str = "work";

/// A path as a mount option may hold it.
fn escaped(path: &str) -> String {
    let plain = |character: char| !matches!(character, '\\' | ':' | ',');
    path.chars().flat_map(|c| (!plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

/// Where the view of the staged root is put together, and is read-only as a whole at first.
#[derive(Debug)]
pub enum Place<'a> {
    /// Mounted, and so is another view of the same, which stays as it is.
    Mounted {
        /// The view.
        exec: &'a Path,
        /// The other.
        aside: &'a Path,
    },
    /// Mounted nowhere.
    Nowhere {
        /// The view.
        exec: &'a View,
        /// Another that stays as it is. Most runs need none, for whom it is not made.
        aside: OnceCell<View>,
    },
}

impl Place<'_> {
    fn at(&self, path: &Path) -> PathBuf {
        match self {
            Self::Mounted { exec, .. } => exec.join(path),
            Self::Nowhere { exec, .. } => exec.path().join(path),
        }
    }

    /// The same in a view that is all read-only: a bind takes the flags of the mount that it comes from, so with it each cover
    /// is one call.
    fn aside(&self, path: &Path) -> Result<PathBuf, Failure> {
        let aside = match self {
            Self::Mounted { aside, .. } => return Ok(aside.join(path)),
            Self::Nowhere { aside, .. } => aside,
        };
        if let Some(view) = aside.get() {
            return Ok(view.path().join(path));
        }
        let view = View::of(Path::new(spec::EXEC))?;
        view.seal()?;
        Ok(aside.get_or_init(|| view).path().join(path))
    }

    fn open(&self, path: &Path) -> Result<(), Failure> {
        match self {
            // What were mounted on the root of a view would not be found by the way through the view.
            Self::Nowhere { exec, .. } if path == Path::new("") => exec.unseal(),
            _ => {
                let view = View::of(&Path::new(spec::EXEC).join(path))?;
                view.tame()?;
                view.put(&self.at(path))
            }
        }
    }
}

/// Opens `writable` (paths in the staged root) there.
pub fn open(writable: &[PathBuf], place: &Place) -> Result<(), Failure> {
    if writable.is_empty() {
        return Ok(());
    }
    // Sorted, so that parents are opened, and covered, before their children.
    let writable: BTreeSet<&Path> = writable.iter().map(PathBuf::as_path).collect();
    let mut opened = BTreeSet::new();
    for path in &writable {
        if opened.contains(path) {
            continue;
        }
        refuse_links(path)?;
        place.open(path)?;
        cover(path, &Cover { place, writable: &writable }, &mut opened)?;
    }
    Ok(())
}

struct Cover<'a> {
    place: &'a Place<'a>,
    writable: &'a BTreeSet<&'a Path>,
}

/// Covers what lies in a writable directory; descends where that is writable too, for which no mount is needed, so
/// that the command may remove it and make it anew.
fn cover<'a>(path: &Path, with: &Cover<'a>, opened: &mut BTreeSet<&'a Path>) -> Result<(), Failure> {
    let host = Path::new(spec::EXEC).join(path);
    let found = fs::symlink_metadata(&host).step(|| format!("look at `{}`", path.display()))?;
    if !found.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(&host).step(|| format!("list `{}`", path.display()))?;
    for entry in entries {
        let entry = entry.step(|| format!("list `{}`", path.display()))?;
        let inside = path.join(entry.file_name());
        if let Some(known) = with.writable.get(inside.as_path()) {
            opened.insert(known);
            cover(&inside, with, opened)?;
            continue;
        }
        let kind = entry.file_type().step(|| format!("look at `{}`", inside.display()))?;
        if !kind.is_symlink() {
            mounts::bind(&with.place.aside(&inside)?, &with.place.at(&inside))?;
        }
    }
    Ok(())
}

/// A path through a symbolic link could lead anywhere on the host, which is still the root here.
fn refuse_links(path: &Path) -> Result<(), Failure> {
    let mut reached = PathBuf::from(spec::EXEC);
    for part in path.components() {
        reached.push(part);
        let found = fs::symlink_metadata(&reached).step(|| format!("look at `{}`", path.display()))?;
        if found.is_symlink() {
            return Err(io::Error::from_raw_os_error(libc::ELOOP))
                .step(|| format!("open `{}`, which leads through a symbolic link", path.display()));
        }
    }
    Ok(())
}
