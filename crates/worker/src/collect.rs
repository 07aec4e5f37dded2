//! Looks at what a command left: which of the declared outputs are there, and what they are. Nothing is stored yet.
//!
//! What is absent is simply not reported; the client knows what it needs. Symbolic links are reported as they are, unless
//! they are absolute: the protocol has us refuse those, since we do not announce that we allow them. Directories are described in one order whatever the file system's, so that equal content has
//! equal digests.

use crate::{
    Limits,
    beneath::{Found, Root},
};
use bytes::Bytes;
use mortar_model::{
    ActionResult, Command, Digest, DigestFunction, Directory, DirectoryNode, Error, FileNode, Hasher, Kind,
    NodeProperties, OutputDirectory, OutputFile, OutputSymlink, Result, SymlinkNode, Tree,
    action::{OutputDirectoryFormat, Outputs},
};
use mortar_wire::{encode_directory, encode_tree};
use rustix::fs::Stat;
use std::{
    collections::HashSet,
    ffi::OsStr,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How much of a file is read at a time.
const PIECE: usize = 256 * 1024;

/// What there is to store, and the result that names it.
#[derive(Debug, Default)]
pub struct Collected {
    /// Outputs and logs; the rest of the result is for others to fill in.
    pub result: ActionResult,
    /// Every blob that the result names, directly or through trees.
    pub blobs: Vec<(Digest, Content)>,
}

/// Where the content of a blob is.
#[derive(Clone, Debug)]
pub enum Content {
    /// Here.
    Bytes(Bytes),
    /// In a file.
    File(Arc<Root>, PathBuf),
}

/// What is expected of an output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Anything,
    File,
    Directory,
}

/// Collects outputs and logs. Blocks.
pub struct Collector<'a> {
    /// What was run.
    pub command: &'a Command,
    /// For the digests.
    pub function: DigestFunction,
    /// How much may come of it.
    pub limits: Limits,
    /// The input root, with the outputs in it.
    pub exec: Arc<Root>,
    /// Whether an output of the wrong kind is an error; it is not where the command failed anyhow.
    pub strict: bool,
    /// What was found so far.
    pub found: Collected,
    /// Entries that were looked at.
    pub seen: usize,
}

impl Collector<'_> {
    /// Standard output and error, from the run's own directory.
    pub fn logs(&mut self, run: &Arc<Root>) -> Result<()> {
        let mut log = |name: &str| {
            let digest = self.hash(run, Path::new(name))?;
            Ok((digest.size() > 0).then_some(digest))
        };
        let (stdout, stderr) = (log("stdout")?, log("stderr")?);
        self.found.result.stdout_digest = stdout;
        self.found.result.stderr_digest = stderr;
        Ok(())
    }

    /// Every declared output that is there.
    pub fn outputs(&mut self) -> Result<()> {
        let command = self.command;
        let mut known = HashSet::new();
        let outputs: Vec<(&String, Expected)> = match &command.outputs {
            Outputs::Paths(paths) => paths.iter().map(|path| (path, Expected::Anything)).collect(),
            Outputs::Typed { files, directories } => {
                let files = files.iter().map(|path| (path, Expected::File));
                files.chain(directories.iter().map(|path| (path, Expected::Directory))).collect()
            }
        };
        for (path, expected) in outputs {
            if known.insert(path) {
                self.output(path, expected)?;
            }
        }
        Ok(())
    }

    fn output(&mut self, name: &str, expected: Expected) -> Result<()> {
        let path = Path::new(&self.command.working_directory).join(name);
        let Some(found) = self.exec.look(&path).map_err(unreadable(&path))? else { return Ok(()) };
        match (found, expected) {
            (Found::File(stat), Expected::Anything | Expected::File) => {
                let digest = self.hash(&self.exec.clone(), &path)?;
                let (is_executable, properties) = (is_executable(&stat), self.properties(&stat));
                let (path, contents) = (name.to_owned(), Bytes::new());
                self.found.result.files.push(OutputFile {
                    path,
                    digest,
                    is_executable,
                    contents,
                    properties,
                });
            }
            (Found::Directory(stat), Expected::Anything | Expected::Directory) => {
                self.output_directory(name, &path, &stat)?;
            }
            (Found::Link(target, stat), _) => {
                let Some(target) = self.target(&path, &target)? else { return Ok(()) };
                let link =
                    OutputSymlink { path: name.to_owned(), target, properties: self.properties(&stat) };
                // Clients before 2.1 read only the lists of their own kind, later ones only the common one.
                match expected {
                    Expected::Anything => {}
                    Expected::File => self.found.result.file_symlinks.push(link.clone()),
                    Expected::Directory => self.found.result.directory_symlinks.push(link.clone()),
                }
                self.found.result.symlinks.push(link);
            }
            (Found::File(_), Expected::Directory) => self.wrong(&path, "a file; expected a directory")?,
            (Found::Directory(_), Expected::File) => self.wrong(&path, "a directory; expected a file")?,
            (Found::Other, _) => self.wrong(&path, NOT_KEPT)?,
        }
        Ok(())
    }

    fn wrong(&self, path: &Path, what: &str) -> Result<()> {
        if !self.strict {
            return Ok(());
        }
        let message = format!("the output `{}` is {what}", path.display());
        Err(Error::new(Kind::FailedPrecondition { message }))
    }

    /// Where a link points; none where that may not be told, and the command failed anyhow.
    fn target(&self, path: &Path, target: &OsStr) -> Result<Option<String>> {
        let target = text(path, target)?;
        if target.starts_with('/') {
            let what = format!("a symbolic link to the absolute path `{target}`; expected a relative target");
            return self.wrong(path, &what).map(|()| None);
        }
        Ok(Some(target))
    }

    fn output_directory(&mut self, name: &str, path: &Path, stat: &Stat) -> Result<()> {
        let mut below = Below::default();
        let (root_digest, root) = self.directory(path, stat, 1, &mut below)?;
        let format = self.command.output_directory_format;
        let mut output = OutputDirectory {
            path: name.to_owned(),
            tree_digest: None,
            is_topologically_sorted: false,
            root_directory_digest: None,
        };
        if format != OutputDirectoryFormat::TreeOnly {
            for (digest, directory) in &below.directories {
                self.keep(*digest, encode_directory(directory));
            }
            self.keep(root_digest, encode_directory(&root));
            output.root_directory_digest = Some(root_digest);
        }
        if format != OutputDirectoryFormat::DirectoryOnly {
            // Each came after all that it holds; so, turned round, before.
            let children = below.directories.into_iter().rev().map(|(_, directory)| directory).collect();
            let bytes = encode_tree(&Tree { root, children });
            let digest = Digest::of(self.function, &bytes);
            self.keep(digest, bytes);
            output.tree_digest = Some(digest);
            output.is_topologically_sorted = true;
        }
        self.found.result.directories.push(output);
        Ok(())
    }

    /// Describes a directory; those below it are added to `below`, each once, after all that they hold.
    fn directory(
        &mut self,
        path: &Path,
        stat: &Stat,
        depth: usize,
        below: &mut Below,
    ) -> Result<(Digest, Directory)> {
        let mut directory = Directory { properties: self.properties(stat), ..Directory::default() };
        let names = self.exec.list(path).map_err(unreadable(path))?;
        self.seen += names.len();
        if self.seen > self.limits.nodes || depth > self.limits.depth {
            let message = self.limits.exceeded(&format!("the output directory `{}`", path.display()));
            return Err(Error::new(Kind::FailedPrecondition { message }));
        }
        for name in names {
            let path = path.join(&name);
            let name = text(&path, &name)?;
            match self.exec.look(&path).map_err(unreadable(&path))? {
                Some(Found::File(stat)) => {
                    let digest = self.hash(&self.exec.clone(), &path)?;
                    let (is_executable, properties) = (is_executable(&stat), self.properties(&stat));
                    directory.files.push(FileNode { name, digest, is_executable, properties });
                }
                Some(Found::Directory(stat)) => {
                    let (digest, child) = self.directory(&path, &stat, depth + 1, below)?;
                    below.add(digest, child);
                    directory.directories.push(DirectoryNode { name, digest });
                }
                Some(Found::Link(target, stat)) => {
                    let Some(target) = self.target(&path, &target)? else { continue };
                    let properties = self.properties(&stat);
                    directory.symlinks.push(SymlinkNode { name, target, properties });
                }
                Some(Found::Other) => self.wrong(&path, NOT_KEPT)?,
                None => {}
            }
        }
        let digest = Digest::of(self.function, &encode_directory(&directory));
        Ok((digest, directory))
    }

    fn keep(&mut self, digest: Digest, bytes: Bytes) {
        self.found.blobs.push((digest, Content::Bytes(bytes)));
    }

    fn hash(&mut self, root: &Arc<Root>, path: &Path) -> Result<Digest> {
        let digest = hash(root, path, self.function).map_err(unreadable(path))?;
        self.found.blobs.push((digest, Content::File(Arc::clone(root), path.into())));
        Ok(digest)
    }

    /// Those attributes that the client asked for.
    fn properties(&self, stat: &Stat) -> Option<NodeProperties> {
        let wants = |name: &str| self.command.output_node_properties.iter().any(|wanted| wanted == name);
        let mtime = || {
            let since = Duration::new(stat.st_mtime.try_into().ok()?, stat.st_mtime_nsec.try_into().ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        let properties = NodeProperties {
            mtime: wants("mtime").then(mtime).flatten(),
            unix_mode: wants("unix_mode").then_some(stat.st_mode & 0o777),
            other: Vec::new(),
        };
        (properties != NodeProperties::default()).then_some(properties)
    }
}

const NOT_KEPT: &str = "neither a file nor a directory nor a symbolic link; nothing else can be kept";

/// Directories below one, each after all that it holds.
#[derive(Default)]
struct Below {
    known: HashSet<Digest>,
    directories: Vec<(Digest, Directory)>,
}

impl Below {
    fn add(&mut self, digest: Digest, directory: Directory) {
        if self.known.insert(digest) {
            self.directories.push((digest, directory));
        }
    }
}

fn is_executable(stat: &Stat) -> bool {
    stat.st_mode & 0o111 != 0
}

fn hash(root: &Root, path: &Path, function: DigestFunction) -> io::Result<Digest> {
    let mut file = root.file(path)?;
    let mut hasher = Hasher::new(function);
    // Logs are empty more often than not.
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(PIECE);
    let mut piece = vec![0; length.saturating_add(1).min(PIECE)];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&piece[..length]),
        }
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let action = format!("read the output `{}`", path.display());
    move |error| Error::io(action, error)
}

fn text(path: &Path, text: &OsStr) -> Result<String> {
    text.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("the output `{}` has a name or target that is no UTF-8", path.display());
        Error::new(Kind::FailedPrecondition { message })
    })
}
