//! After the start, one thread goes through the directory: it clears what earlier runs left unfinished, and tells
//! the index of every file, so that sizes are exact and eviction can begin. Nothing waits for it.

use super::{
    Shared,
    index::Entry,
    layout::{Key, Space},
};
use mortar_model::ActionKey;
use std::{
    fs::{self, DirEntry},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Weak},
    thread,
};

/// Starts the walk. It ends early if the store is dropped.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    thread::Builder::new().name("store-walk".into()).spawn(move || walk(&weak)).map(drop)
}

fn walk(weak: &Weak<Shared>) -> Option<()> {
    for path in weak.upgrade()?.layout.rubbish() {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "unfinished files of an earlier run could not be removed");
        }
    }
    for space in Space::ALL {
        let directory = weak.upgrade()?.layout.space(space);
        for shard in list(&directory) {
            // Held for one directory at a time, so that a store that is dropped lets go soon.
            weak.upgrade()?.discover_all(space, &shard.path());
        }
    }
    let shared = weak.upgrade()?;
    shared.index.lock().complete = true;
    shared.evict();
    Some(())
}

impl Shared {
    fn discover_all(&self, space: Space, shard: &Path) {
        for file in list(shard) {
            let name = file.file_name();
            let hash = name.to_str().and_then(|name| ActionKey::parse(Default::default(), name).ok());
            let (Some(hash), Ok(metadata)) = (hash, file.metadata()) else { continue };
            let (seconds, nanos) = (metadata.atime(), metadata.atime_nsec());
            let noted = (seconds.max(0) as u64).saturating_mul(1_000_000_000) + nanos.max(0) as u64;
            let key = Key { space, hash: hash.hash };
            self.discover(key, Entry::found(metadata.len(), noted.min(self.now()), noted));
        }
    }
}

fn list(directory: &Path) -> Vec<DirEntry> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %directory.display(), %error, "a directory of the store could not be read");
            Vec::new()
        }
    }
}
