//! The images of a worker: root file systems in which actions may run instead of on the host's system directories.
//!
//! In the directory of the store:
//!
//! * `by-digest/SHA256` is an unpacked root, which never changes. It comes there by being renamed when it is whole.
//! * `names/NAME` holds the digest that the name stands for; a `/` of the name is a `%` there.
//! * `incoming` is where roots are made; what is left there is from one that died.
//! * `lock` is held by whoever changes anything. Whoever uses a root holds a lock on its directory.
//!
//! `tree` is the only way in which anything is written into a root. How actions name an image is in
//! [`mortar_model::image`].

mod archive;
mod choose;
mod copy;
mod layout;
mod tree;

#[cfg(test)]
mod tests;

pub use choose::choose;

use archive::Archive;
use layout::Found;
use mortar_model::{Error, ImageReference, Kind, Result};
use rustix::{
    fs::{FlockOperation, flock, syncfs},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tree::Tree;

/// The images in one directory.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The name without `:latest`.
    pub name: String,
    /// SHA-256, in hexadecimal.
    pub digest: String,
    /// Devices, pipes and sockets, which were left out.
    pub skipped: u64,
}

/// An image that stays while this is held.
#[derive(Debug)]
pub struct InUse {
    root: PathBuf,
    _lock: File,
}

impl InUse {
    /// Its root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

const BY_DIGEST: &str = "by-digest";
const NAMES: &str = "names";
const INCOMING: &str = "incoming";
const LOCK: &str = "lock";

impl Images {
    /// Those in this directory, which need not be there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Takes over a root directory, an archive of one, an OCI layout (a directory or an archive), or what `docker save`
    /// wrote.
    pub fn import(&self, source: &Path, name: &str) -> Result<Imported> {
        let ImageReference { name, digest: None } = ImageReference::parse(name)? else {
            return Err(Error::invalid("name", format!("`{name}` names a digest; an image gets its own")));
        };
        let _lock = self.lock()?;
        let incoming = self.directory.join(INCOMING);
        let failed = |error| Error::io(format!("make a directory in `{}`", self.directory.display()), error);
        remove_all(&incoming).map_err(failed)?;
        let root = incoming.join("root");
        fs::create_dir_all(&root).map_err(failed)?;
        fs::set_permissions(&root, Permissions::from_mode(0o755)).map_err(failed)?;
        let made = make(source, &incoming, &Tree::open(&root)?);
        let published = made.and_then(|(digest, skipped)| {
            self.publish(&root, &digest, &name)?;
            Ok(Imported { name: name.clone(), digest, skipped })
        });
        // Where that fails, the next one does it.
        remove_all(&incoming).ok();
        published
    }

    /// All names with their digests.
    pub fn list(&self) -> Result<BTreeMap<String, String>> {
        let names = self.directory.join(NAMES);
        let failed = |error| Error::io(format!("list `{}`", names.display()), error);
        let entries = match fs::read_dir(&names) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(failed)?,
        };
        let mut all = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().replace('%', "/");
            // A name that is being written begins with a dot, as none does.
            if ImageReference::parse(&name).is_ok_and(|image| image.digest.is_none()) {
                match fs::read_to_string(entry.path()) {
                    // It was removed in the meantime.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    digest => drop(all.insert(name, digest.map_err(failed)?.trim_end().to_owned())),
                }
            }
        }
        Ok(all)
    }

    /// Removes a name, and its root where no other name stands for it: at once, or once no action uses it.
    pub fn remove(&self, name: &str) -> Result<()> {
        let name = ImageReference::parse(name)?.canonical();
        let _lock = self.lock()?;
        if !self.list()?.contains_key(&name) {
            return Err(Error::new(Kind::NotFound { what: "image", name }));
        }
        let failed = |error: io::Error| Error::io(format!("remove the image `{name}`"), error);
        fs::remove_file(self.name_file(&name)).map_err(failed)?;
        self.sweep().map_err(failed)
    }

    /// Removes the roots that have no name, but for those in use.
    fn sweep(&self) -> io::Result<()> {
        let named: BTreeSet<_> = self.list().map_err(io::Error::other)?.into_values().collect();
        let incoming = self.directory.join(INCOMING);
        for entry in fs::read_dir(self.directory.join(BY_DIGEST))? {
            let entry = entry?;
            if named.contains(&*entry.file_name().to_string_lossy()) {
                continue;
            }
            // Held until it is gone from there, so that nobody begins to use it.
            let root = File::open(entry.path())?;
            if flock(&root, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
                continue;
            }
            fs::create_dir_all(&incoming)?;
            fs::rename(entry.path(), incoming.join(entry.file_name()))?;
        }
        remove_all(&incoming)
    }

    /// The image that is asked for, if it is here.
    pub fn find(&self, wanted: &ImageReference) -> Result<Option<InUse>> {
        let found = self.list()?.into_iter().find(|(name, digest)| wanted.is_met_by(name, digest));
        let Some((name, digest)) = found else { return Ok(None) };
        let root = self.root(&digest);
        let failed = |error: io::Error| Error::io(format!("open the image `{name}`"), error);
        let lock = match File::open(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        // Who removes it has it locked, and it is gone at once.
        if flock(&lock, FlockOperation::NonBlockingLockShared).is_err() || !root.exists() {
            return Ok(None);
        }
        Ok(Some(InUse { root, _lock: lock }))
    }

    /// All of them as workers announce them: `NAME@sha256:…`.
    pub fn announced(&self) -> Result<Vec<String>> {
        Ok(self.list()?.into_iter().map(|(name, digest)| format!("{name}@sha256:{digest}")).collect())
    }

    fn publish(&self, made: &Path, digest: &str, name: &str) -> Result<()> {
        let failed = |error: io::Error| Error::io(format!("publish the image `{name}`"), error);
        let root = self.root(digest);
        for directory in [BY_DIGEST, NAMES] {
            fs::create_dir_all(self.directory.join(directory)).map_err(failed)?;
        }
        if !root.exists() {
            // A crash must not leave a root that looks whole.
            let synced = File::open(made).and_then(|made| Ok(syncfs(made)?));
            synced.map_err(failed)?;
            fs::rename(made, &root).map_err(failed)?;
        }
        let new = self.directory.join(NAMES).join(".new");
        fs::write(&new, format!("{digest}\n")).map_err(failed)?;
        fs::rename(&new, self.name_file(name)).map_err(failed)?;
        // What the name stood for before may have no other.
        self.sweep().map_err(failed)
    }

    fn root(&self, digest: &str) -> PathBuf {
        self.directory.join(BY_DIGEST).join(digest)
    }

    fn name_file(&self, name: &str) -> PathBuf {
        self.directory.join(NAMES).join(name.replace('/', "%"))
    }

    fn lock(&self) -> Result<File> {
        let failed =
            |error: io::Error| Error::io(format!("lock the images in `{}`", self.directory.display()), error);
        fs::create_dir_all(&self.directory).map_err(failed)?;
        let lock = File::create(self.directory.join(LOCK)).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from).map_err(failed)?;
        Ok(lock)
    }
}

/// Makes a root of whatever the source is. Its digest, and how much was left out.
fn make(source: &Path, incoming: &Path, tree: &Tree) -> Result<(String, u64)> {
    let failed = |error| Error::io(format!("open `{}`", source.display()), error);
    if fs::metadata(source).map_err(failed)?.is_dir() {
        if source.join(layout::MARK).is_file() {
            return unpack(&Tree::open(source)?, tree, Found::in_layout);
        }
        let copy::Copied { digest, skipped } = copy::copy(source, tree)?;
        return Ok((digest, skipped));
    }
    let mut archive = Archive::new(File::open(source).map_err(failed)?, source.display().to_string());
    let [is_layout, is_saved] = archive.holds([layout::MARK, layout::SAVED])?;
    if is_layout || is_saved {
        let directory = incoming.join("layout");
        fs::create_dir(&directory).map_err(failed)?;
        let unpacked = Tree::open(&directory)?;
        archive.unpack(&unpacked)?;
        return unpack(&unpacked, tree, if is_layout { Found::in_layout } else { Found::saved });
    }
    let skipped = archive.unpack(tree)?;
    let digest = File::open(source).and_then(|mut file| layout::hash_file(&mut file)).map_err(failed)?;
    Ok((digest, skipped))
}

fn unpack(layout: &Tree, tree: &Tree, find: fn(&Tree) -> Result<Found>) -> Result<(String, u64)> {
    let found = find(layout)?;
    let skipped = found.unpack(layout, tree)?;
    Ok((found.digest, skipped))
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
