//! What of the staged root may be written: the directories of outputs, but nothing that lay in them before.
//!
//! The staged root is mounted read-only as a whole. Over each writable directory lies a writable view of itself, and
//! over each entry of that a read-only view again, unless it is writable itself. A mount point can be neither removed
//! nor renamed, and a link cannot lead from one mount to another, so what is covered stays as it is, contents and mode,
//! whoever owns it. Symbolic links are no mount points: they are private to the run, and may be replaced in it.

use super::{Failure, Step, mounts};
use crate::spec;
use nix::mount::MsFlags;
use std::{
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

/// Opens `writable` (paths in the staged root) in `exec`, which is a read-only view of the staged root by now. `aside`
/// is another one: a bind takes the flags of the mount that it comes from, so with it each cover is one call.
pub fn open(writable: &[PathBuf], exec: &Path, aside: &Path) -> Result<(), Failure> {
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
        let target = exec.join(path);
        mounts::bind(&Path::new(spec::EXEC).join(path), &target)?;
        mounts::tame(&target)?;
        cover(path, &Cover { exec, aside, writable: &writable }, &mut opened)?;
    }
    Ok(())
}

struct Cover<'a> {
    exec: &'a Path,
    aside: &'a Path,
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
            mounts::bind(&with.aside.join(&inside), &with.exec.join(&inside))?;
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
