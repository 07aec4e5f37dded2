//! Directories as Merkle trees: their messages, and the rules that make one well-formed.

use crate::{Digest, Error, Result};
use std::time::SystemTime;

/// One level of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Sorted by name.
    pub files: Vec<FileNode>,
    /// Sorted by name.
    pub directories: Vec<DirectoryNode>,
    /// Sorted by name.
    pub symlinks: Vec<SymlinkNode>,
    /// Attributes of this directory.
    pub properties: Option<NodeProperties>,
}

/// A file in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// One path segment.
    pub name: String,
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Further attributes.
    pub properties: Option<NodeProperties>,
}

/// A directory in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryNode {
    /// One path segment.
    pub name: String,
    /// The Directory message.
    pub digest: Digest,
}

/// A symbolic link in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymlinkNode {
    /// One path segment.
    pub name: String,
    /// Where it points: relative to its own directory or, in outputs of others, absolute.
    pub target: String,
    /// Further attributes.
    pub properties: Option<NodeProperties>,
}

/// Attributes beyond name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeProperties {
    /// Time of the last change.
    pub mtime: Option<SystemTime>,
    /// Permission bits.
    pub unix_mode: Option<u32>,
    /// Anything else, by name.
    pub other: Vec<(String, String)>,
}

/// A whole directory in one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The top.
    pub root: Directory,
    /// Every directory below it, each once.
    pub children: Vec<Directory>,
}

impl Directory {
    /// Checks names, their order, that none occurs twice, and that links have targets.
    pub fn check(&self) -> Result<()> {
        check_sorted("files", self.files.iter().map(|node| node.name.as_str()))?;
        check_sorted("directories", self.directories.iter().map(|node| node.name.as_str()))?;
        check_sorted("symlinks", self.symlinks.iter().map(|node| node.name.as_str()))?;
        let mut names: Vec<&str> = self.names().collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid(
                "directory",
                format!("the name `{}` occurs twice among files, directories and symlinks", pair[0]),
            ));
        }
        self.symlinks.iter().try_for_each(check_target)
    }

    /// Checks a directory of an input root, in which links must not be absolute besides: we say in our capabilities that
    /// such ones are not allowed. What clients themselves say of their outputs is not held to that, since nothing here
    /// follows their links.
    pub fn check_input(&self) -> Result<()> {
        self.check()?;
        match self.symlinks.iter().find(|link| link.is_absolute()) {
            Some(SymlinkNode { name, target, .. }) => Err(Error::invalid(
                "symlinks",
                format!(
                    "the symlink `{name}` points to the absolute path `{target}`; only relative targets are allowed"
                ),
            )),
            None => Ok(()),
        }
    }

    /// The names of all nodes, list by list.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter().map(|node| node.name.as_str());
        let directories = self.directories.iter().map(|node| node.name.as_str());
        files.chain(directories).chain(self.symlinks.iter().map(|node| node.name.as_str()))
    }
}

impl SymlinkNode {
    /// Whether its meaning depends on the machine that it is on.
    pub fn is_absolute(&self) -> bool {
        self.target.starts_with('/')
    }
}

fn check_target(link: &SymlinkNode) -> Result<()> {
    let refuse = |why| Err(Error::invalid("symlinks", format!("the symlink `{}` {why}", link.name)));
    match link.target.as_str() {
        "" => refuse("has no target"),
        target if target.contains('\0') => refuse("has a NUL byte in its target"),
        _ => Ok(()),
    }
}

fn check_sorted<'a>(list: &'static str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut previous: Option<&str> = None;
    for name in names {
        check_segment(list, name)?;
        match previous {
            Some(before) if before == name => {
                return Err(Error::invalid(list, format!("the name `{name}` occurs twice in `{list}`")));
            }
            Some(before) if utf16_order(before, name).is_gt() && before > name => {
                return Err(Error::invalid(
                    list,
                    format!(
                        "`{list}` is not sorted: `{name}` comes after `{before}`; expected sorting by name"
                    ),
                ));
            }
            _ => previous = Some(name),
        }
    }
    Ok(())
}

/// Bazel sorts by Java's string order (UTF-16 units), others by bytes; both are accepted.
fn utf16_order(a: &str, b: &str) -> std::cmp::Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// Checks that a name is one segment of a path.
pub fn check_segment(field: &'static str, name: &str) -> Result<()> {
    let refuse = |why| Err(Error::invalid(field, format!("the name `{}` {why}", name.escape_debug())));
    match name {
        "" => Err(Error::invalid(field, format!("a node in `{field}` has no name"))),
        "." | ".." => refuse("is not a name: `.` and `..` are not allowed"),
        _ if name.contains('/') => refuse("holds a slash; expected one path segment"),
        _ if name.contains('\0') => refuse("holds a NUL byte"),
        _ if name.len() > 255 => refuse("is longer than 255 bytes"),
        _ => Ok(()),
    }
}

/// Checks that a path is relative and stays below where it starts. The empty path is the start itself.
pub fn check_relative(field: &'static str, path: &str) -> Result<()> {
    if path.starts_with('/') {
        return Err(Error::invalid(field, format!("the path `{path}` is absolute; expected a relative one")));
    }
    if path.is_empty() {
        return Ok(());
    }
    path.split('/').try_for_each(|segment| {
        check_segment(field, segment).map_err(|error| {
            Error::invalid(field, format!("the path `{}` is not accepted: {error}", path.escape_debug()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DigestFunction;

    fn file(name: &str) -> FileNode {
        let digest = Digest::empty(DigestFunction::Sha256);
        FileNode { name: name.into(), digest, is_executable: false, properties: None }
    }

    fn link(name: &str, target: &str) -> SymlinkNode {
        SymlinkNode { name: name.into(), target: target.into(), properties: None }
    }

    #[test]
    fn well_formed() {
        let directory = Directory {
            files: vec![file("a"), file("b")],
            symlinks: vec![link("c", "../a")],
            ..Default::default()
        };
        directory.check().unwrap();
    }

    #[test]
    fn orders_of_bazel_and_of_bytes_are_both_accepted() {
        // U+FF21 sorts before U+1F600 by bytes and after it by UTF-16 units.
        for names in [["\u{ff21}", "\u{1f600}"], ["\u{1f600}", "\u{ff21}"]] {
            Directory { files: names.map(file).to_vec(), ..Default::default() }.check().unwrap();
        }
    }

    #[test]
    fn malformed() {
        let with = |files: &[&str], links: &[(&str, &str)]| Directory {
            files: files.iter().map(|name| file(name)).collect(),
            symlinks: links.iter().map(|(name, target)| link(name, target)).collect(),
            ..Default::default()
        };
        for (directory, needle) in [
            (with(&["b", "a"], &[]), "not sorted"),
            (with(&["a", "a"], &[]), "twice"),
            (with(&["a"], &[("a", "b")]), "twice"),
            (with(&[""], &[]), "no name"),
            (with(&[".."], &[]), "not allowed"),
            (with(&["a/b"], &[]), "slash"),
            (with(&["/etc"], &[]), "slash"),
            (with(&["a\0"], &[]), "NUL"),
            (with(&[], &[("l", "")]), "no target"),
        ] {
            let error = directory.check().unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn absolute_links_are_refused_in_inputs_alone() {
        for (target, allowed) in [("../a", true), ("a/../../b", true), ("/", false), ("/etc/passwd", false)] {
            let directory = Directory { symlinks: vec![link("l", target)], ..Default::default() };
            directory.check().unwrap();
            match directory.check_input() {
                Ok(()) => assert!(allowed, "{target}"),
                Err(error) => assert!(!allowed && error.to_string().contains("absolute"), "{error}"),
            }
        }
        let malformed = Directory { files: vec![file("b"), file("a")], ..Default::default() };
        malformed.check_input().unwrap_err();
    }

    #[test]
    fn relative_paths() {
        for good in ["", "a", "a/b.c", "bazel-out/k8/bin/x"] {
            check_relative("path", good).unwrap();
        }
        for bad in ["/a", "a/../b", "..", "a//b", "a/", "./a"] {
            assert!(check_relative("path", bad).is_err(), "{bad}");
        }
    }
}
