//! Root directories that are taken over as they are, with a digest of what they hold.

use super::{
    layout::hex,
    tree::{Attributes, Tree},
};
use mortar_model::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// What was copied.
#[derive(Debug)]
pub struct Copied {
    /// SHA-256 of a list of all that is there, in the order of the names, with kinds, permissions and contents.
    pub digest: String,
    /// Devices, pipes and sockets, which were left out.
    pub skipped: u64,
}

/// Copies all that a directory holds. Links are copied as links, files with several names stay one.
pub fn copy(source: &Path, tree: &Tree) -> Result<Copied> {
    let mut copy = Copy { source, tree, list: Sha256::new(), skipped: 0, linked: HashMap::new() };
    copy.directory(Path::new(""))?;
    Ok(Copied { digest: hex(&copy.list.finalize()), skipped: copy.skipped })
}

struct Copy<'a> {
    source: &'a Path,
    tree: &'a Tree,
    list: Sha256,
    skipped: u64,
    /// Files with several names, by device and inode: the first name, and the digest.
    linked: HashMap<(u64, u64), (PathBuf, String)>,
}

impl Copy<'_> {
    fn directory(&mut self, path: &Path) -> Result<()> {
        let source = self.source.join(path);
        let failed = |error| Error::io(format!("list `{}`", source.display()), error);
        let entries = fs::read_dir(&source).map_err(failed)?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?;
        names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        names.iter().try_for_each(|name| self.entry(&path.join(name)))
    }

    fn entry(&mut self, path: &Path) -> Result<()> {
        let source = self.source.join(path);
        let failed = |error| Error::io(format!("read `{}`", source.display()), error);
        let found = fs::symlink_metadata(&source).map_err(failed)?;
        let attributes = Attributes { mode: found.mode(), modified: found.mtime() };
        if found.is_dir() {
            self.note("directory", path, &found, b"");
            self.tree.directory(path, attributes)?;
            return self.directory(path);
        }
        if found.is_symlink() {
            let to = fs::read_link(&source).map_err(failed)?;
            self.note("link", path, &found, to.as_os_str().as_bytes());
            return self.tree.symlink(path, to.as_os_str());
        }
        if !found.is_file() {
            self.skipped += 1;
            return Ok(());
        }
        let digest = self.file(path, &found)?;
        self.note("file", path, &found, digest.as_bytes());
        Ok(())
    }

    fn file(&mut self, path: &Path, found: &Metadata) -> Result<String> {
        let identity = (found.dev(), found.ino());
        if let Some((first, digest)) = self.linked.get(&identity) {
            self.tree.hard_link(path, first)?;
            return Ok(digest.clone());
        }
        let source = self.source.join(path);
        let file =
            File::open(&source).map_err(|error| Error::io(format!("open `{}`", source.display()), error))?;
        let mut hashing = Hashing { file, hasher: Sha256::new() };
        self.tree.file(path, &mut hashing, Attributes { mode: found.mode(), modified: found.mtime() })?;
        let digest = hex(&hashing.hasher.finalize());
        if found.nlink() > 1 {
            self.linked.insert(identity, (path.to_owned(), digest.clone()));
        }
        Ok(digest)
    }

    /// Takes an entry into the list: a line with the lengths of what could hold the end of a line.
    fn note(&mut self, kind: &str, path: &Path, found: &Metadata, content: &[u8]) {
        let name = path.as_os_str().as_bytes();
        let mode = if found.is_symlink() { 0 } else { found.mode() & 0o777 };
        self.list.update(format!("{kind} {mode:o} {} {}\n", name.len(), content.len()));
        self.list.update(name);
        self.list.update(content);
    }
}

/// Hashes what is read.
struct Hashing {
    file: File,
    hasher: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
