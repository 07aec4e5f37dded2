//! What becomes of files whose content is not what it should be: they are put aside for a person to look at, and
//! the store no longer has them.

use super::{
    Shared,
    index::Stamp,
    layout::{Key, Space},
};
use std::{fs, path::Path};

/// How many damaged files are kept; the newest.
const KEPT: usize = 100;

impl Shared {
    /// Puts a file aside that was found damaged, unless it was replaced in the meantime. Blocks.
    pub fn quarantine(&self, key: Key, found: Stamp, why: &str) {
        let (path, quarantine) = (self.layout.path(key), self.layout.quarantine());
        let space = match key.space {
            Space::Sha256 => "sha256",
            Space::Blake3 => "blake3",
            Space::Results => "result",
            Space::Values => "value",
            Space::Producers => "producer",
            Space::Recipes => "recipe",
        };
        // The time comes first, so that names sort by age.
        let target = quarantine.join(format!("{:020}-{space}-{}", self.now(), key.hex()));
        {
            let _names = self.names.lock();
            let still_there = fs::symlink_metadata(&path).is_ok_and(|now| Stamp::of(&now).same_file(found));
            if !still_there {
                return;
            }
            if let Err(error) = fs::rename(&path, &target) {
                tracing::error!(key = key.hex(), %error, "a damaged file could not be put aside; removing it");
                let _ = fs::remove_file(&path);
            }
            let mut index = self.index.lock();
            index.remove(key);
            index.quarantined += 1;
        }
        tracing::error!(hash = key.hex(), kind = space, why, file = %target.display(), "damaged in the store, put aside");
        trim(&quarantine);
    }
}

fn trim(quarantine: &Path) {
    let mut files: Vec<_> = fs::read_dir(quarantine).into_iter().flatten().flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    for old in files.iter().rev().skip(KEPT) {
        let _ = fs::remove_file(old.path());
    }
}
