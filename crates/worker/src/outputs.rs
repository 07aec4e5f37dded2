//! Where outputs go: what has to exist before the command runs, and what of the input root it may write to.

use crate::tree::{Kind, Tree};
use mortar_model::{Command, Error, Result, action::Outputs};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Variables that name a directory for temporary files. Where the path is relative, it means one in the input root, as
/// Bazel's `TEST_TMPDIR` does: nothing declares it, yet the command expects to write there.
const TEMPORARY: [&str; 4] = ["TEST_TMPDIR", "TMPDIR", "TMP", "TEMP"];

/// What the outputs ask of the input root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Directories to make, parents first.
    pub create: BTreeSet<PathBuf>,
    /// Directories in which, and files on which, the command may write; all that are made are among them.
    pub writable: BTreeSet<PathBuf>,
}

impl Places {
    /// Works out the places. The protocol has parents of outputs made; output directories of the older form, and only
    /// those, are made themselves, as Bazel does where it runs actions itself.
    pub fn of(command: &Command, root: &Tree) -> Result<Self> {
        let start = Path::new(&command.working_directory);
        let mut places = Self::default();
        places.make(root, start, "working_directory", false)?;
        // The empty path stands for the working directory itself, which is there.
        places.writable.extend(command.outputs.all().any(str::is_empty).then(|| start.to_owned()));
        for output in command.outputs.all().filter(|output| !output.is_empty()) {
            places.output(root, &start.join(output))?;
        }
        if let Outputs::Typed { directories, .. } = &command.outputs {
            for output in directories.iter().filter(|output| !output.is_empty()) {
                places.make(root, &start.join(output), "output_directories", true)?;
            }
        }
        for (_, value) in command.environment.iter().filter(|(name, _)| TEMPORARY.contains(&name.as_str())) {
            if mortar_model::merkle::check_relative("environment_variables", value).is_ok()
                && !value.is_empty()
            {
                places.make(root, &start.join(value), "environment_variables", true)?;
            }
        }
        Ok(places)
    }

    fn output(&mut self, root: &Tree, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.make(root, parent, "output_paths", true)?;
        }
        // An input in the place of an output may be replaced by it; an input directory may get more entries.
        if matches!(root.kind(path), Some(Kind::File | Kind::Directory)) {
            self.writable.insert(path.into());
        }
        Ok(())
    }

    /// A directory that must be there. Those that are made for it may be written to as well.
    fn make(&mut self, root: &Tree, path: &Path, field: &str, writable: bool) -> Result<()> {
        if writable {
            self.writable.insert(path.into());
        }
        for directory in path.ancestors() {
            match root.kind(directory) {
                Some(Kind::Directory) => {}
                None => {
                    self.create.insert(directory.into());
                    self.writable.insert(directory.into());
                }
                Some(Kind::File) => return Err(blocked(field, path, directory, "file")),
                Some(Kind::Link) => return Err(blocked(field, path, directory, "symbolic link")),
            }
        }
        Ok(())
    }
}

fn blocked(field: &str, wanted: &Path, found: &Path, kind: &str) -> Error {
    let message = format!(
        "the directory `{}` is needed for the command, but `{}` is a {kind} in its input root",
        wanted.display(),
        found.display()
    );
    Error::invalid(field, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use mortar_model::{Digest, DigestFunction::Sha256, Directory, DirectoryNode, FileNode, SymlinkNode};
    use std::sync::Arc;

    /// `in/file`, `in/sub/`, `link -> in`.
    fn root() -> Tree {
        let digest = |name: &str| Digest::of(Sha256, name.as_bytes());
        let node = |name: &str| vec![DirectoryNode { name: name.into(), digest: digest(name) }];
        let tree =
            |name, directory, below| Tree::new(digest(name), directory, below, Limits::default()).unwrap();
        let sub = tree("sub", Directory::default(), Vec::new());
        let file =
            FileNode { name: "file".into(), digest: digest("f"), is_executable: true, properties: None };
        let inside = Directory { files: vec![file], directories: node("sub"), ..Directory::default() };
        let inside = tree("in", inside, vec![Arc::new(sub)]);
        let link = SymlinkNode { name: "link".into(), target: "in".into(), properties: None };
        let top = Directory { directories: node("in"), symlinks: vec![link], ..Directory::default() };
        tree("top", top, vec![Arc::new(inside)])
    }

    fn places(command: Command) -> Result<(String, String)> {
        let join = |paths: BTreeSet<PathBuf>| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        Places::of(&command, &root()).map(|places| (join(places.create), join(places.writable)))
    }

    #[test]
    fn what_is_made_and_what_is_opened() {
        let paths = |list: &[&str]| Outputs::Paths(list.iter().map(|path| (*path).into()).collect());
        let typed = |files: &[&str], directories: &[&str]| Outputs::Typed {
            files: files.iter().map(|path| (*path).into()).collect(),
            directories: directories.iter().map(|path| (*path).into()).collect(),
        };
        let cases = [
            (paths(&["out/a/b"]), "", "out out/a", "out out/a"),
            (paths(&["in/x"]), "", "", "in"),
            (paths(&["in/file"]), "", "", "in in/file"),
            (paths(&["in/sub"]), "", "", "in in/sub"),
            (paths(&["x"]), "", "", ""),
            (paths(&["sub/x"]), "in", "", "in/sub"),
            (paths(&["x"]), "new/place", "new new/place", "new new/place"),
            (typed(&["o/f"], &["o/d", "in/sub/d"]), "", "in/sub/d o o/d", "in/sub in/sub/d o o/d"),
            (typed(&[], &[""]), "in", "", "in"),
        ];
        for (outputs, working_directory, create, writable) in cases {
            let shown = format!("{outputs:?} in `{working_directory}`");
            let command =
                Command { outputs, working_directory: working_directory.into(), ..Command::default() };
            let found = places(command).unwrap();
            assert_eq!((found.0.as_str(), found.1.as_str()), (create, writable), "{shown}");
        }
    }

    #[test]
    fn relative_temporary_directories_can_be_written() {
        let environment = [("TEST_TMPDIR", "_tmp/1"), ("TMPDIR", "/tmp"), ("TMP", ""), ("HOME", "x")];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).to_vec();
        let found = places(Command { environment, ..Command::default() }).unwrap();
        assert_eq!(found, ("_tmp _tmp/1".into(), "_tmp _tmp/1".into()));
    }

    #[test]
    fn outputs_through_files_and_links_are_refused() {
        for (path, needle) in [("in/file/x", "is a file"), ("link/x", "is a symbolic link")] {
            let outputs = Outputs::Paths(vec![path.into()]);
            let error = places(Command { outputs, ..Command::default() }).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
        let error = places(Command { working_directory: "link".into(), ..Command::default() }).unwrap_err();
        assert!(error.to_string().contains("symbolic link"));
    }
}
