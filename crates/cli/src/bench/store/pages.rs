//! Taking a store's files out of the page cache, so that reads are cold.

use rustix::fs::{Advice, fadvise};
use std::{fs, io, path::Path};

/// Asks the kernel to forget the content of all files below a directory; what is not yet on disk it keeps. How many files
/// that were. Files that vanish meanwhile are of no interest.
pub(super) fn drop_below(directory: &Path) -> io::Result<u64> {
    let mut dropped = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => dropped += drop_below(&entry.path())?,
            kind if kind.is_file() => match fs::File::open(entry.path()) {
                Ok(file) => {
                    fadvise(&file, 0, None, Advice::DontNeed)?;
                    dropped += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            _ => {}
        }
    }
    Ok(dropped)
}
