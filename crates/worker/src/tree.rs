//! An input root as a Merkle tree in memory: what is the same is there once, within a root and between roots, so that
//! two roots are compared at the cost of what differs. Written out in full only for those who need every path.

use crate::Limits;
use mortar_model::{Digest, DigestSet, Directory, DirectoryNode, Error, NodeProperties, Result};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    path::{Component, Path, PathBuf},
    sync::{Arc, Weak},
};

/// A directory and all that is below it.
#[derive(Debug)]
pub struct Tree {
    /// Of its message.
    pub digest: Digest,
    /// What the message says.
    pub directory: Directory,
    /// Its directories, in the message's order.
    pub children: Vec<Arc<Tree>>,
    /// Files, directories and links with itself; what occurs twice counts twice.
    pub nodes: u64,
    /// Directories within each other, with itself.
    pub height: usize,
    /// Nothing in it has attributes of its own: a file is told by its content and its execute bit.
    pub is_plain: bool,
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

impl Tree {
    /// A directory over those that it names, within the limits.
    pub fn new(
        digest: Digest,
        directory: Directory,
        children: Vec<Arc<Self>>,
        limits: Limits,
    ) -> Result<Self> {
        let own = 1 + directory.files.len() + directory.symlinks.len();
        let nodes = children.iter().fold(own as u64, |sum, child| sum.saturating_add(child.nodes));
        let height = 1 + children.iter().map(|child| child.height).max().unwrap_or(0);
        if height > limits.depth || nodes > limits.nodes as u64 {
            return Err(Error::invalid("input_root_digest", limits.exceeded("the input root")));
        }
        let attributes = directory.files.iter().map(|file| &file.properties);
        let attributes = attributes.chain(directory.symlinks.iter().map(|link| &link.properties));
        let is_plain = attributes.chain([&directory.properties]).all(|properties| !shows(properties))
            && children.iter().all(|child| child.is_plain);
        Ok(Self { digest, directory, children, nodes, height, is_plain })
    }

    /// What lies at a path, if anything does. Links are not followed.
    pub fn kind(&self, path: &Path) -> Option<Kind> {
        let mut tree = self;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else { return None };
            let name = name.to_str()?;
            match tree.child(name) {
                Some(child) => tree = child,
                None if parts.peek().is_some() => return None,
                None => return tree.leaf(name),
            }
        }
        Some(Kind::Directory)
    }

    /// The directory of that name in this one.
    pub fn child(&self, name: &str) -> Option<&Arc<Self>> {
        let directories = &self.directory.directories;
        let index = directories.binary_search_by(|node| node.name.as_str().cmp(name)).ok()?;
        self.children.get(index)
    }

    fn leaf(&self, name: &str) -> Option<Kind> {
        let Directory { files, symlinks, .. } = &self.directory;
        if files.binary_search_by(|node| node.name.as_str().cmp(name)).is_ok() {
            return Some(Kind::File);
        }
        symlinks.binary_search_by(|node| node.name.as_str().cmp(name)).is_ok().then_some(Kind::Link)
    }

    /// The contents of its files.
    pub fn contents(&self) -> DigestSet {
        let (mut contents, mut seen) = (DigestSet::new(), HashSet::new());
        let mut pending = vec![self];
        while let Some(tree) = pending.pop() {
            contents.extend(tree.directory.files.iter().map(|file| file.digest));
            pending
                .extend(tree.children.iter().map(|child| &**child).filter(|child| seen.insert(child.digest)));
        }
        contents
    }
}

/// Whether a node shows attributes beyond those of every node of its kind.
fn shows(properties: &Option<NodeProperties>) -> bool {
    properties.as_ref().is_some_and(|wanted| wanted.mtime.is_some() || wanted.unix_mode.is_some())
}

/// Directories that somebody holds, by their digests.
#[derive(Debug, Default)]
pub struct Known(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    trees: HashMap<Digest, Weak<Tree>>,
    /// How many may be entered before those are dropped that nobody holds any more.
    until_swept: usize,
}

/// So many are entered before the first sweep.
const FIRST_SWEEP: usize = 1024;

impl Known {
    /// The directory, if somebody holds it.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Tree>> {
        self.0.lock().trees.get(digest)?.upgrade()
    }

    /// Enters a directory; the answer is the one to hold.
    pub fn enter(&self, tree: Tree) -> Arc<Tree> {
        let mut held = self.0.lock();
        if let Some(known) = held.trees.get(&tree.digest).and_then(Weak::upgrade) {
            return known;
        }
        if held.trees.len() >= held.until_swept.max(FIRST_SWEEP) {
            held.trees.retain(|_, tree| tree.strong_count() > 0);
            held.until_swept = 2 * held.trees.len();
        }
        let tree = Arc::new(tree);
        held.trees.insert(tree.digest, Arc::downgrade(&tree));
        tree
    }
}

/// An input root as lists of what to make, by path relative to the root.
#[derive(Debug, Default)]
pub struct Listing {
    /// Parents before their children; the root itself comes first, as the empty path.
    pub directories: Vec<(PathBuf, Option<NodeProperties>)>,
    /// Files.
    pub files: Vec<InputFile>,
    /// Symbolic links.
    pub links: Vec<InputLink>,
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

impl Listing {
    /// Writes a tree out, which is within limits.
    pub fn of(tree: &Tree) -> Self {
        let mut listing = Self::default();
        listing.add(PathBuf::new(), tree);
        listing
    }

    /// Writes a tree out that lies at `path`.
    pub fn add(&mut self, path: PathBuf, tree: &Tree) {
        let mut pending = vec![(path, tree)];
        while let Some((path, tree)) = pending.pop() {
            let directory = &tree.directory;
            self.files.extend(directory.files.iter().map(|file| InputFile {
                path: path.join(&file.name),
                digest: file.digest,
                is_executable: file.is_executable,
                properties: file.properties.clone(),
            }));
            self.links.extend(directory.symlinks.iter().map(|link| InputLink {
                path: path.join(&link.name),
                target: link.target.clone(),
                properties: link.properties.clone(),
            }));
            let named = |node: &DirectoryNode| path.join(&node.name);
            let below = directory.directories.iter().zip(&tree.children).rev();
            pending.extend(below.map(|(node, child)| (named(node), &**child)));
            self.directories.push((path, directory.properties.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mortar_model::DigestFunction::Sha256;

    /// A tree of two entries a level that are the same directory: 2^n directories from n messages.
    fn doubling(levels: usize, limits: Limits) -> Result<Arc<Tree>> {
        let digest = |level: usize| Digest::of(Sha256, &level.to_le_bytes());
        let mut tree = Arc::new(Tree::new(digest(0), Directory::default(), Vec::new(), limits)?);
        for level in 1..=levels {
            let node = |name: &str| DirectoryNode { name: name.into(), digest: tree.digest };
            let directory = Directory { directories: vec![node("a"), node("b")], ..Directory::default() };
            let children = vec![tree.clone(), tree.clone()];
            tree = Arc::new(Tree::new(digest(level), directory, children, limits)?);
        }
        Ok(tree)
    }

    #[test]
    fn shared_parts_are_written_out() {
        let tree = doubling(2, Limits::default()).unwrap();
        let listing = Listing::of(&tree);
        let paths: Vec<_> = listing.directories.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["", "a", "a/a", "a/b", "b", "b/a", "b/b"]);
        assert_eq!((tree.nodes, tree.height), (7, 3));
        assert_eq!(tree.kind(Path::new("a/b")), Some(Kind::Directory));
        assert_eq!(tree.kind(Path::new("")), Some(Kind::Directory));
        for nothing in ["c", "a/b/c", "a/c/b", "../a"] {
            assert_eq!(tree.kind(Path::new(nothing)), None, "{nothing}");
        }
    }

    #[test]
    fn an_exploding_tree_is_refused() {
        let limits = Limits { nodes: 1000, ..Limits::default() };
        let error = doubling(60, limits).unwrap_err().to_string();
        assert!(error.contains("at most 1000"), "{error}");
        assert!(doubling(8, limits).is_ok());
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        assert!(doubling(5, Limits { depth: 5, ..Limits::default() }).is_err());
        assert!(doubling(5, Limits { depth: 6, ..Limits::default() }).is_ok());
    }

    #[test]
    fn a_directory_is_known_while_it_is_held() {
        let known = Known::default();
        let tree = |level| Tree {
            digest: Digest::of(Sha256, &[level]),
            directory: Directory::default(),
            children: Vec::new(),
            nodes: 1,
            height: 1,
            is_plain: true,
        };
        let held = known.enter(tree(1));
        assert!(Arc::ptr_eq(&held, &known.enter(tree(1))));
        assert!(known.get(&held.digest).is_some());
        let digest = held.digest;
        drop(held);
        assert!(known.get(&digest).is_none());
    }
}
