//! What has to be made on disk for a directory: all of it, or only what it differs by from one that is there.

use super::pool::FileKey;
use crate::tree::{Kind, Listing, Tree};
use mortar_model::{Directory, FileNode};
use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

/// What to make, by path relative to the top.
#[derive(Debug, Default)]
pub struct Work {
    /// Parents before their children; the top itself comes first, as the empty path.
    pub directories: Vec<PathBuf>,
    /// Files, those of one directory together.
    pub files: Vec<(PathBuf, FileKey)>,
    /// Symbolic links and what they say.
    pub links: Vec<(PathBuf, String)>,
    /// What is to be hidden of the layer below.
    pub hidden: Vec<PathBuf>,
}

impl Work {
    /// All of a directory.
    pub fn whole(tree: &Tree) -> Self {
        let mut work = Self::default();
        work.add(PathBuf::new(), tree);
        work
    }

    /// What a layer over `base` needs to hold to make it `tree`; none if that is more than `most` things.
    pub fn difference(tree: &Tree, base: &Tree, most: usize) -> Option<Self> {
        let mut work = Self::default();
        let mut pending = vec![(PathBuf::new(), tree, base)];
        while let Some((path, tree, base)) = pending.pop() {
            work.directories.push(path.clone());
            work.leaves(&path, tree, base);
            for (node, child) in tree.directory.directories.iter().zip(&tree.children) {
                let path = path.join(&node.name);
                match base.child(&node.name) {
                    Some(known) if known.digest == child.digest => {}
                    Some(known) => pending.push((path, child, known)),
                    None if child.nodes > (most.saturating_sub(work.size())) as u64 => return None,
                    None => work.add(path, child),
                }
            }
            let gone = names(&base.directory).filter(|name| tree.kind(Path::new(name)).is_none());
            work.hidden.extend(gone.map(|name| path.join(name)));
            if work.size() > most {
                return None;
            }
        }
        Some(work)
    }

    /// How many things are to be made.
    pub fn size(&self) -> usize {
        self.directories.len() + self.files.len() + self.links.len() + self.hidden.len()
    }

    fn add(&mut self, path: PathBuf, tree: &Tree) {
        let mut listing = Listing::default();
        listing.add(path, tree);
        self.directories.extend(listing.directories.into_iter().map(|(path, _)| path));
        let key = |is_executable, digest| FileKey { digest, is_executable };
        self.files
            .extend(listing.files.into_iter().map(|file| (file.path, key(file.is_executable, file.digest))));
        self.links.extend(listing.links.into_iter().map(|link| (link.path, link.target)));
    }

    /// Files and links of a directory that are not the same in the other.
    fn leaves(&mut self, path: &Path, tree: &Tree, base: &Tree) {
        let mut known = base.directory.files.iter().peekable();
        for file in &tree.directory.files {
            while known.next_if(|known| known.name < file.name).is_some() {}
            let same = |known: &&FileNode| {
                known.name.cmp(&file.name) == Ordering::Equal
                    && (known.digest, known.is_executable) == (file.digest, file.is_executable)
            };
            if !known.peek().is_some_and(same) {
                let key = FileKey { digest: file.digest, is_executable: file.is_executable };
                self.files.push((path.join(&file.name), key));
            }
        }
        let links = tree.directory.symlinks.iter();
        let new = links.filter(|link| {
            base.kind(Path::new(&link.name)) != Some(Kind::Link) || !base.directory.symlinks.contains(link)
        });
        self.links.extend(new.map(|link| (path.join(&link.name), link.target.clone())));
    }
}

fn names(directory: &Directory) -> impl Iterator<Item = &str> {
    directory.names()
}
