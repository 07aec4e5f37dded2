//! What lies on disk, so that it can be told that nothing was changed.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

/// Every entry below a directory: its path, and what would differ if it had been touched.
pub type Listing = BTreeMap<String, (u32, i64, i64, Vec<u8>)>;

/// Everything below `root`, and `root` itself.
pub fn listing(root: &Path) -> Listing {
    let mut found = Listing::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            content = fs::read(&path).unwrap();
        }
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content));
    }
    found
}
