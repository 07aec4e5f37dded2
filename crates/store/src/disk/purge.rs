//! Blobs that are removed because somebody says so, whoever counts on them: they are gone for good, also from records
//! of which the index knows nothing, and after whatever ends the process next.

use super::{DiskStore, Shared, files::storage_error, key::Key, log::answered_blocking};
use crate::blocking::hop;
use mortar_model::{Digest, Result};

impl DiskStore {
    /// Removes a blob, durably. Whether it was here. One that somebody brings or has lent this moment is
    /// `Unavailable`.
    pub async fn purge_blob(&self, digest: Digest) -> Result<bool> {
        let shared = self.shared.clone();
        hop(move || shared.purge(Key::of(digest))).await
    }
}

impl Shared {
    fn purge(&self, key: Key) -> Result<bool> {
        // Before anything else: a verification that runs takes it up no more.
        self.purged.lock().insert(key);
        let was_here = self.forget_blocking(key)?;
        if !was_here {
            // An older record may still lie in some segment; from now on a later one says that it is gone.
            let told = self.log.append([self.removal(key)]);
            told.into_iter().try_for_each(|told| answered_blocking(told).map(drop))?;
        }
        for path in self.file_paths(key) {
            let directory = path.parent().filter(|directory| directory.exists());
            let synced = directory.map_or(Ok(()), |directory| self.medium.sync_directory(directory));
            synced.map_err(|error| storage_error("writing a directory durably", error))?;
        }
        Ok(was_here)
    }
}
