//! Files of blobs that no record tells of: left by a write that failed, by a crash between a file's name and its record, or
//! found damaged while somebody had them in use. They go as soon as nobody needs their name.

use super::{
    Shared,
    key::{Key, Space},
    table::Form,
};
use mortar_model::{Digest, DigestFunction};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// Keys of blobs of which a file may be a stray.
#[derive(Default)]
pub(super) struct Strays(Mutex<HashSet<Key>>);

impl Shared {
    /// Removes the files of a blob that is no more; the caller has hold of their name.
    pub(super) fn remove_files(&self, key: Key) {
        let paths = self.file_paths(key);
        let failed = |path: &PathBuf| self.medium.remove(path).is_err() && path.exists();
        if paths.iter().filter(|path| failed(path)).count() > 0 {
            // It is tried again later.
            self.suspect(key);
        }
    }

    /// Takes note that a blob may have a file that no record tells of.
    pub(super) fn suspect(&self, key: Key) {
        self.strays.0.lock().insert(key);
    }

    /// Removes strays that nobody has in use. Whether these were all.
    pub(super) fn remove_strays(&self) -> bool {
        let suspects = std::mem::take(&mut *self.strays.0.lock());
        for key in suspects {
            if !self.names.begin_removal(key) {
                self.suspect(key);
                continue;
            }
            if let Some(stays) = self.file_that_stays(key) {
                for path in self.file_paths(key) {
                    let is_stray = Some(&path) != stays.as_ref() && path.exists();
                    if is_stray && self.medium.remove(&path).is_err() {
                        self.suspect(key);
                    }
                }
            }
            self.names.end_removal(key);
        }
        self.strays.0.lock().is_empty()
    }

    /// The file that a record tells of, if there is such a record; nothing at all if it cannot be read.
    fn file_that_stays(&self, key: Key) -> Option<Option<PathBuf>> {
        match self.table.get(&key).filter(|entry| entry.form == Form::File) {
            None => Some(None),
            Some(entry) => {
                let (header, _) = self.segments.read_any(entry.place).ok()?;
                Some(Some(self.layout.blob_path(key, header.encoding)))
            }
        }
    }

    /// Looks through all files for strays, as a run that did not end in order may have left them.
    pub(super) fn find_strays(&self) {
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let space = Space::from(function);
            for directory in listed(&self.layout.root().join("blobs").join(space.name())) {
                let files = listed(&directory);
                let plain = files.iter().filter(|path| path.extension().is_none());
                let both = plain.filter(|path| files.contains(&path.with_extension("zst"))).cloned();
                let suspects: Vec<Key> = both.filter_map(|path| key_of(function, &path)).collect();
                suspects.into_iter().for_each(|key| self.suspect(key));
                for key in files.iter().filter_map(|path| key_of(function, path)) {
                    if self.table.get(&key).is_none_or(|entry| entry.form != Form::File) {
                        self.suspect(key);
                    }
                }
                if self.keeper.is_stopped() {
                    return;
                }
            }
        }
        self.remove_strays();
    }
}

fn listed(directory: &Path) -> HashSet<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn key_of(function: DigestFunction, path: &Path) -> Option<Key> {
    let hash = path.file_name()?.to_str()?;
    let hash = hash.strip_suffix(".zst").unwrap_or(hash);
    Digest::parse(function, hash, 1).ok().map(Key::of)
}
