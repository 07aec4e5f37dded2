//! An input root as lists of what to make: the Merkle tree with its shared parts written out.

use crate::{Limits, fetch::Directories};
use mortar_model::{Digest, Directory, DirectoryNode, Error, NodeProperties, Result};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// What is to be made, by path relative to the root.
#[derive(Debug, Default)]
pub struct InputRoot {
    /// Parents before their children; the root itself comes first, as the empty path.
    pub directories: Vec<(PathBuf, Option<NodeProperties>)>,
    /// Files.
    pub files: Vec<InputFile>,
    /// Symbolic links.
    pub links: Vec<InputLink>,
    kinds: HashMap<PathBuf, Kind>,
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// A file to be made.
#[derive(Clone, Debug)]
pub struct InputFile {
    /// Where.
    pub path: PathBuf,
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Further attributes.
    pub properties: Option<NodeProperties>,
}

/// A link to be made.
#[derive(Clone, Debug)]
pub struct InputLink {
    /// Where.
    pub path: PathBuf,
    /// What it says.
    pub target: String,
    /// Further attributes.
    pub properties: Option<NodeProperties>,
}

impl InputRoot {
    /// Writes the tree out, within the limits.
    pub fn expand(root: Digest, directories: &Directories, limits: Limits) -> Result<Self> {
        let mut tree = Self::default();
        let mut pending = vec![(PathBuf::new(), root, 1)];
        while let Some((path, digest, depth)) = pending.pop() {
            let directory = directories
                .get(&digest)
                .ok_or_else(|| Error::internal(format!("directory `{digest}` was not fetched")))?;
            tree.add(&path, directory);
            let planned = tree.kinds.len() + pending.len() + directory.directories.len();
            if depth > limits.depth || planned > limits.nodes {
                return Err(Error::invalid("input_root_digest", limits.exceeded("the input root")));
            }
            let below = |child: &DirectoryNode| (path.join(&child.name), child.digest, depth + 1);
            pending.extend(directory.directories.iter().rev().map(below));
        }
        Ok(tree)
    }

    /// What lies at a path, if anything does.
    pub fn kind(&self, path: &Path) -> Option<Kind> {
        self.kinds.get(path).copied()
    }

    fn add(&mut self, path: &Path, directory: &Directory) {
        self.kinds.insert(path.into(), Kind::Directory);
        self.directories.push((path.into(), directory.properties.clone()));
        for file in &directory.files {
            let path = path.join(&file.name);
            self.kinds.insert(path.clone(), Kind::File);
            let (digest, is_executable) = (file.digest, file.is_executable);
            self.files.push(InputFile { path, digest, is_executable, properties: file.properties.clone() });
        }
        for link in &directory.symlinks {
            let path = path.join(&link.name);
            self.kinds.insert(path.clone(), Kind::Link);
            let (target, properties) = (link.target.clone(), link.properties.clone());
            self.links.push(InputLink { path, target, properties });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction::Sha256;

    /// A tree of two entries a level that are the same directory: 2^n directories from n messages.
    fn doubling(levels: usize) -> (Digest, Directories) {
        let digest = |level: usize| Digest::of(Sha256, &level.to_le_bytes());
        let node = |name: &str, level| DirectoryNode { name: name.into(), digest: digest(level) };
        let mut directories = Directories::from([(digest(0), Directory::default())]);
        for level in 1..=levels {
            let children = vec![node("a", level - 1), node("b", level - 1)];
            directories.insert(digest(level), Directory { directories: children, ..Directory::default() });
        }
        (digest(levels), directories)
    }

    #[test]
    fn shared_parts_are_written_out() {
        let (root, directories) = doubling(2);
        let tree = InputRoot::expand(root, &directories, Limits::default()).unwrap();
        let paths: Vec<_> = tree.directories.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "a", "a/a", "a/b", "b", "b/a", "b/b"]);
        assert_eq!(tree.kind(Path::new("a/b")), Some(Kind::Directory));
        assert_eq!(tree.kind(Path::new("c")), None);
    }

    #[test]
    fn an_exploding_tree_is_refused() {
        let (root, directories) = doubling(60);
        let limits = Limits { nodes: 1000, ..Limits::default() };
        let error = InputRoot::expand(root, &directories, limits).unwrap_err().to_string();
        assert!(error.contains("at most 1000"), "{error}");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let (root, directories) = doubling(5);
        assert!(InputRoot::expand(root, &directories, Limits { depth: 5, ..Limits::default() }).is_err());
        assert!(InputRoot::expand(root, &directories, Limits { depth: 6, ..Limits::default() }).is_ok());
    }
}
