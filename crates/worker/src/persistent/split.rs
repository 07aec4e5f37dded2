//! Parts an input root into the tools, with which a worker process is started and stays, and the rest, which comes and
//! goes with each request.

use crate::{
    Limits,
    tree::{Kind, Tree},
};
use mortar_model::{Digest, DigestFunction, Directory, DirectoryNode, FileNode, NodeProperties, Result};
use mortar_wire::encode_directory;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The node property by which Bazel marks the files of a tool.
const MARK: &str = "bazel_tool_input";

/// Which files are the tool's.
#[derive(Debug)]
pub enum Tools {
    /// Those that are marked.
    Marked,
    /// Nothing is: the programme, and its runfiles beside it.
    Programme {
        /// The programme.
        file: PathBuf,
        /// The directory that Bazel's launchers look for.
        runfiles: PathBuf,
    },
}

impl Tools {
    /// What is known of the tool; none if it is no part of the root.
    pub fn find(root: &Tree, programme: Option<PathBuf>) -> Option<Self> {
        if is_marked_below(root, &mut HashMap::new()) {
            return Some(Self::Marked);
        }
        let file = programme.filter(|path| root.kind(path) == Some(Kind::File))?;
        let mut runfiles = file.clone().into_os_string();
        runfiles.push(".runfiles");
        Some(Self::Programme { file, runfiles: runfiles.into() })
    }

    fn include(&self, path: &Path, properties: &Option<NodeProperties>) -> bool {
        match self {
            Self::Marked => is_marked(properties),
            Self::Programme { file, runfiles } => path == file || path.starts_with(runfiles),
        }
    }
}

/// The file at a path. Links are not followed.
pub fn file_at<'a>(root: &'a Tree, path: &Path) -> Option<&'a FileNode> {
    let name = path.file_name()?.to_str()?;
    let mut tree = root;
    for part in path.parent()?.components() {
        tree = tree.child(part.as_os_str().to_str()?)?;
    }
    let files = &tree.directory.files;
    let index = files.binary_search_by(|node| node.name.as_str().cmp(name)).ok()?;
    files.get(index)
}

/// The two parts of a root. Directories are in those parts that have something in them.
#[derive(Debug)]
pub struct Parts {
    /// The tool's files.
    pub tools: Arc<Tree>,
    /// All else, and the directories that are needed.
    pub rest: Arc<Tree>,
}

/// Parts a root. `needed` are directories that the rest is to have although all in them is the tool's.
pub fn part(
    root: &Arc<Tree>,
    tools: &Tools,
    needed: &BTreeSet<PathBuf>,
    function: DigestFunction,
    limits: Limits,
) -> Result<Parts> {
    let mut parting = Parting { tools, needed, function, limits, marked: HashMap::new() };
    let (tools, rest) = parting.part(root, Path::new(""))?;
    let empty = || parting.tree(Directory::default(), Vec::new());
    Ok(Parts { tools: tools.map_or_else(empty, Ok)?, rest: rest.map_or_else(empty, Ok)? })
}

struct Parting<'a> {
    tools: &'a Tools,
    needed: &'a BTreeSet<PathBuf>,
    function: DigestFunction,
    limits: Limits,
    marked: HashMap<*const Tree, bool>,
}

/// One part of a directory, if there is anything in it.
type Half = Option<Arc<Tree>>;

/// The same while it is made.
#[derive(Default)]
struct Growing {
    directory: Directory,
    children: Vec<Arc<Tree>>,
}

impl Parting<'_> {
    fn part(&mut self, tree: &Arc<Tree>, path: &Path) -> Result<(Half, Half)> {
        if !self.has_tools(tree, path) {
            return Ok((None, Some(Arc::clone(tree))));
        }
        let (mut tools, mut rest) = (Growing::default(), Growing::default());
        rest.directory.properties = tree.directory.properties.clone();
        for file in &tree.directory.files {
            let is_tool = self.tools.include(&path.join(&file.name), &file.properties);
            let half = if is_tool { &mut tools } else { &mut rest };
            half.directory.files.push(file.clone());
        }
        for link in &tree.directory.symlinks {
            let is_tool = self.tools.include(&path.join(&link.name), &link.properties);
            let half = if is_tool { &mut tools } else { &mut rest };
            half.directory.symlinks.push(link.clone());
        }
        for (node, child) in tree.directory.directories.iter().zip(&tree.children) {
            let (tool, other) = self.part(child, &path.join(&node.name))?;
            for (half, part) in [(&mut tools, tool), (&mut rest, other)] {
                let Some(part) = part else { continue };
                let node = DirectoryNode { name: node.name.clone(), digest: part.digest };
                half.directory.directories.push(node);
                half.children.push(part);
            }
        }
        let is_needed = self.needed.contains(path) || !rest.is_empty();
        let rest = if is_needed { Some(self.tree(rest.directory, rest.children)?) } else { None };
        Ok((Some(self.tree(tools.directory, tools.children)?), rest))
    }

    fn has_tools(&mut self, tree: &Arc<Tree>, path: &Path) -> bool {
        match self.tools {
            Tools::Marked => is_marked_below(tree, &mut self.marked),
            Tools::Programme { file, runfiles } => {
                [file, runfiles].iter().any(|tool| tool.starts_with(path)) || path.starts_with(runfiles)
            }
        }
    }

    fn tree(&self, directory: Directory, children: Vec<Arc<Tree>>) -> Result<Arc<Tree>> {
        let digest = Digest::of(self.function, &encode_directory(&directory));
        Tree::new(digest, directory, children, self.limits).map(Arc::new)
    }
}

impl Growing {
    fn is_empty(&self) -> bool {
        let Directory { files, directories, symlinks, .. } = &self.directory;
        files.is_empty() && directories.is_empty() && symlinks.is_empty()
    }
}

fn is_marked(properties: &Option<NodeProperties>) -> bool {
    properties.as_ref().is_some_and(|properties| properties.other.iter().any(|(name, _)| name == MARK))
}

/// Whether something is marked in a directory or below it; each directory is looked at once.
fn is_marked_below(tree: &Tree, known: &mut HashMap<*const Tree, bool>) -> bool {
    if let Some(known) = known.get(&std::ptr::from_ref(tree)) {
        return *known;
    }
    let files = tree.directory.files.iter().map(|file| &file.properties);
    let found = files.chain(tree.directory.symlinks.iter().map(|link| &link.properties)).any(is_marked)
        || tree.children.iter().any(|child| is_marked_below(child, known));
    known.insert(tree, found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Listing;
    use mortar_model::DigestFunction::Sha256;

    fn tree(files: &[(&str, bool)], children: &[(&str, Arc<Tree>)]) -> Arc<Tree> {
        let properties = |marked: bool| {
            marked.then(|| NodeProperties { other: vec![(MARK.into(), String::new())], ..Default::default() })
        };
        let file = |(name, marked): &(&str, bool)| FileNode {
            name: (*name).into(),
            digest: Digest::of(Sha256, name.as_bytes()),
            is_executable: true,
            properties: properties(*marked),
        };
        let node =
            |(name, child): &(&str, Arc<Tree>)| DirectoryNode { name: (*name).into(), digest: child.digest };
        let directory = Directory {
            files: files.iter().map(file).collect(),
            directories: children.iter().map(node).collect(),
            ..Directory::default()
        };
        let digest = Digest::of(Sha256, &encode_directory(&directory));
        let children = children.iter().map(|(_, child)| child.clone()).collect();
        Arc::new(Tree::new(digest, directory, children, Limits::default()).unwrap())
    }

    fn shown(tree: &Tree) -> String {
        let listing = Listing::of(tree);
        let directories = listing.directories.iter().map(|(path, _)| format!("{}/", path.display()));
        let files = listing.files.iter().map(|file| file.path.display().to_string());
        let mut all: Vec<_> = directories.chain(files).collect();
        all.sort();
        all.join(" ")
    }

    fn parts(root: &Arc<Tree>, programme: &str, needed: &[&str]) -> Option<(String, String)> {
        let tools = Tools::find(root, Some(programme.into()))?;
        let needed = needed.iter().map(PathBuf::from).collect();
        let parts = part(root, &tools, &needed, Sha256, Limits::default()).unwrap();
        Some((shown(&parts.tools), shown(&parts.rest)))
    }

    #[test]
    fn marked_files_are_the_tools() {
        let bin = tree(&[("in", false), ("tool", true)], &[("all", tree(&[("lib", true)], &[]))]);
        let root = tree(
            &[("args", false)],
            &[("bin", bin), ("src", tree(&[("x", false)], &[("e", tree(&[], &[]))]))],
        );
        let (tools, rest) = parts(&root, "args", &[]).unwrap();
        assert_eq!(tools, "/ bin/ bin/all/ bin/all/lib bin/tool");
        assert_eq!(rest, "/ args bin/ bin/in src/ src/e/ src/x");
        let (_, rest) = parts(&root, "args", &["bin/all"]).unwrap();
        assert_eq!(rest, "/ args bin/ bin/all/ bin/in src/ src/e/ src/x");
    }

    #[test]
    fn without_marks_it_is_the_programme_with_its_runfiles() {
        let runfiles = tree(&[("lib", false)], &[]);
        let bin = tree(&[("in", false), ("tool", false)], &[("tool.runfiles", runfiles)]);
        let root = tree(&[("args", false)], &[("bin", bin)]);
        let (tools, rest) = parts(&root, "bin/tool", &[]).unwrap();
        assert_eq!(tools, "/ bin/ bin/tool bin/tool.runfiles/ bin/tool.runfiles/lib");
        assert_eq!(rest, "/ args bin/ bin/in");
        assert_eq!(parts(&root, "usr/bin/java", &[]), None);
    }

    #[test]
    fn only_tools_tell_tools_apart() {
        let root = |tool, input| tree(&[(input, false), (tool, true)], &[]);
        let digest = |root: Arc<Tree>| {
            part(&root, &Tools::Marked, &BTreeSet::new(), Sha256, Limits::default()).unwrap().tools.digest
        };
        assert_eq!(digest(root("t", "a")), digest(root("t", "b")));
        assert_ne!(digest(root("t", "a")), digest(root("u", "a")));
    }
}
