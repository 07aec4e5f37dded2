//! Where other caches keep things, and what their files are called. Knows names alone and opens no file.
//!
//! ```text
//! Bazel --disk_cache   [blake3/]{cas,ac}/ab/HASH     before 3.0: HASH and ac_HASH, all in one directory
//! bazel-remote         cas.v2/[blake3/]ab/HASH-SIZE-RANDOM       a header and zstd, or a header alone
//!                      cas.v2/[blake3/]ab/HASH-[SIZE-]RANDOM.v1  the content as it is
//!                      {ac,raw}.v2/[blake3/]ab/HASH-RANDOM       before 2.0: {cas,ac}/[ab/]HASH
//! ```

use mortar_model::{ActionKey, DigestFunction, Error, Kind as ErrorKind, Result};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bazel's `--disk_cache`. bazel-remote before 2.0 kept things in the same way.
    BazelDiskCache,
    /// bazel-remote 2.0 or later.
    BazelRemote,
}

/// What the files of an area are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Blobs,
    Results,
    /// Whatever HTTP clients put as results, unseen.
    Raw,
    /// Both, told apart by a prefix.
    Mixed,
}

/// A directory whose files are of one kind, directly in it or in directories named by the first digits of the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub directory: PathBuf,
    pub function: DigestFunction,
    pub content: Content,
}

/// A directory of a known kind.
#[derive(Debug)]
pub(super) struct Layout {
    pub kind: Kind,
    pub areas: Vec<Area>,
    /// What lies between the areas and belongs to none.
    pub strangers: Vec<PathBuf>,
}

/// How the content of a blob lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// Behind a header of bazel-remote's, with this size.
    CasBlob(u64),
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Blob(ActionKey, Form),
    Result(ActionKey),
}

/// What both kinds of caches leave lying about and nobody misses.
const IGNORED: [&str; 4] = ["tmp", "gc", "lost+found", ".DS_Store"];

impl Layout {
    /// Looks what kind of directory this is, and what is in it.
    pub fn recognize(root: &Path) -> Result<Self> {
        let names: Vec<PathBuf> = list(root)?.into_iter().map(|(path, _)| path).collect();
        let has = |name: &str| names.iter().any(|path| path.file_name() == Some(OsStr::new(name)));
        if ["cas.v2", "ac.v2", "raw.v2"].into_iter().any(has) {
            return Self::assemble(Kind::BazelRemote, &names, |name| remote_areas(root, name));
        }
        let is_flat = names.iter().any(|path| is_entry(path) && path.is_file());
        if is_flat || ["cas", "ac", "blake3"].into_iter().any(has) {
            let mut layout = Self::assemble(Kind::BazelDiskCache, &names, |name| bazel_areas(root, name))?;
            if is_flat {
                layout.strangers.retain(|path| !is_entry(path));
                layout.areas.push(area(root.into(), DigestFunction::Sha256, Content::Mixed));
            }
            return Ok(layout);
        }
        let message = format!(
            "`{}` is neither a Bazel disk cache, which has directories `cas` and `ac`, nor a directory of bazel-remote, \
             which has `cas.v2` and `ac.v2`",
            root.display()
        );
        Err(Error::new(ErrorKind::FailedPrecondition { message }))
    }

    fn assemble(kind: Kind, names: &[PathBuf], areas: impl Fn(&str) -> Vec<Area>) -> Result<Self> {
        let mut layout = Self { kind, areas: Vec::new(), strangers: Vec::new() };
        for path in names {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let mut found = areas(name);
            found.retain(|area| area.directory.is_dir());
            match found.is_empty() {
                true if !IGNORED.contains(&name) => layout.strangers.push(path.clone()),
                _ => layout.areas.extend(found),
            }
        }
        Ok(layout)
    }
}

fn area(directory: PathBuf, function: DigestFunction, content: Content) -> Area {
    Area { directory, function, content }
}

fn bazel_areas(root: &Path, name: &str) -> Vec<Area> {
    let (base, function) = match name {
        "cas" | "ac" => (root.to_path_buf(), DigestFunction::Sha256),
        "blake3" => (root.join(name), DigestFunction::Blake3),
        _ => return Vec::new(),
    };
    [("cas", Content::Blobs), ("ac", Content::Results)]
        .into_iter()
        .filter(|(kind, _)| name == "blake3" || name == *kind)
        .map(|(kind, content)| area(base.join(kind), function, content))
        .collect()
}

fn remote_areas(root: &Path, name: &str) -> Vec<Area> {
    let content = match name {
        "cas.v2" => Content::Blobs,
        "ac.v2" => Content::Results,
        "raw.v2" => Content::Raw,
        _ => return Vec::new(),
    };
    let directory = root.join(name);
    let blake3 = area(directory.join("blake3"), DigestFunction::Blake3, content);
    vec![area(directory, DigestFunction::Sha256, content), blake3]
}

impl Area {
    /// The directories in which files are, this one first, and what belongs to none of them.
    pub fn folders(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let (mut folders, mut strangers) = (vec![self.directory.clone()], Vec::new());
        // In a directory that holds all files itself, other directories are areas of their own.
        if self.content == Content::Mixed {
            return Ok((folders, strangers));
        }
        for (path, _) in list(&self.directory)?.into_iter().filter(|(_, is_file)| !is_file) {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            if name.len() == 2 && name.bytes().all(is_hex) && path.is_dir() {
                folders.push(path);
            } else if name != "blake3" && !IGNORED.contains(&name) {
                strangers.push(path);
            }
        }
        Ok((folders, strangers))
    }

    /// The files directly in a folder of this area, and what each is; none where its name does not say.
    pub fn files(&self, kind: Kind, folder: &Path) -> Result<Vec<(PathBuf, Option<Named>)>> {
        let files = list(folder)?.into_iter().filter(|(_, is_file)| *is_file).map(|(path, _)| path);
        let named = |path: PathBuf| {
            let named = path.file_name().and_then(OsStr::to_str).and_then(|name| self.named(kind, name));
            (path, named)
        };
        let is_meant = |path: &PathBuf| match self.content {
            Content::Mixed => is_entry(path),
            _ => !path.file_name().is_some_and(|name| IGNORED.iter().any(|ignored| name == *ignored)),
        };
        Ok(files.filter(is_meant).map(named).collect())
    }

    fn named(&self, kind: Kind, name: &str) -> Option<Named> {
        let key = |hash: &str| ActionKey::parse(self.function, hash).ok();
        match (kind, self.content) {
            (Kind::BazelDiskCache, Content::Blobs) => Some(Named::Blob(key(name)?, Form::Plain)),
            (Kind::BazelDiskCache, Content::Results | Content::Raw) => Some(Named::Result(key(name)?)),
            (Kind::BazelDiskCache, Content::Mixed) => match name.strip_prefix("ac_") {
                Some(hash) => Some(Named::Result(key(hash)?)),
                None => Some(Named::Blob(key(name)?, Form::Plain)),
            },
            (Kind::BazelRemote, content) => {
                let (stem, is_plain) = name.strip_suffix(".v1").map_or((name, false), |stem| (stem, true));
                let parts: Vec<&str> = stem.split('-').collect();
                match (content, is_plain, &parts[..]) {
                    (Content::Blobs, true, [hash, _] | [hash, _, _]) => {
                        Some(Named::Blob(key(hash)?, Form::Plain))
                    }
                    (Content::Blobs, false, [hash, size, _]) => {
                        Some(Named::Blob(key(hash)?, Form::CasBlob(size.parse().ok()?)))
                    }
                    (Content::Results | Content::Raw, false, [hash, _]) => Some(Named::Result(key(hash)?)),
                    _ => None,
                }
            }
        }
    }
}

/// Whether this is a file of the oldest layout, by its name.
fn is_entry(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let hash = name.strip_prefix("ac_").unwrap_or(name);
    hash.len() == 64 && hash.bytes().all(is_hex)
}

fn is_hex(digit: u8) -> bool {
    matches!(digit, b'0'..=b'9' | b'a'..=b'f')
}

/// What is in a directory, by name, and whether each is a regular file.
fn list(directory: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let failed = |error| Error::io(format!("listing `{}`", directory.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.push((entry.path(), entry.file_type().map_err(failed)?.is_file()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_are() {
        const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let key = ActionKey::parse(DigestFunction::Sha256, HASH).unwrap();
        let (blob, result) = (|form| Some(Named::Blob(key, form)), Some(Named::Result(key)));
        let (bazel, remote) = (Kind::BazelDiskCache, Kind::BazelRemote);
        for (kind, content, name, expected) in [
            (bazel, Content::Blobs, HASH.to_owned(), blob(Form::Plain)),
            (bazel, Content::Results, HASH.to_owned(), result),
            (bazel, Content::Mixed, HASH.to_owned(), blob(Form::Plain)),
            (bazel, Content::Mixed, format!("ac_{HASH}"), result),
            (bazel, Content::Blobs, HASH.to_uppercase(), None),
            (bazel, Content::Blobs, HASH[1..].to_owned(), None),
            (remote, Content::Blobs, format!("{HASH}-3-99"), blob(Form::CasBlob(3))),
            (remote, Content::Blobs, format!("{HASH}-3-99.v1"), blob(Form::Plain)),
            (remote, Content::Blobs, format!("{HASH}-99.v1"), blob(Form::Plain)),
            (remote, Content::Blobs, format!("{HASH}-99"), None),
            (remote, Content::Blobs, format!("{HASH}-x-99"), None),
            (remote, Content::Results, format!("{HASH}-99"), result),
            (remote, Content::Raw, format!("{HASH}-99"), result),
            (remote, Content::Results, format!("{HASH}-99.v1"), None),
            (remote, Content::Results, HASH.to_owned(), None),
        ] {
            let area = area("".into(), DigestFunction::Sha256, content);
            assert_eq!(area.named(kind, &name), expected, "{kind:?} {content:?} {name}");
        }
    }
}
