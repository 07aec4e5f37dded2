//! The output trees of two builds, compared byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Every output of a build, by path below `bazel-out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File { content: Vec<u8>, executable: bool },
    Link(PathBuf),
    EmptyDirectory,
}

impl Outputs {
    /// Reads `CONFIGURATION/bin` for each configuration below `bazel_out`. Left out are runfiles trees, which Bazel
    /// makes of links to what is read anyway, and parameter files, which it writes for spawns that run here.
    pub fn below(bazel_out: &Path) -> Result<Outputs> {
        let mut entries = BTreeMap::new();
        for configuration in list(bazel_out)? {
            let bin = configuration.join("bin");
            if bin.is_dir() {
                read_tree(bazel_out, &bin, &mut entries)?;
            }
        }
        Ok(Outputs { entries })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The files among them with their contents, by path below `bazel-out`.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File { content, .. } => Some((path.as_path(), content.as_slice())),
            Entry::Link(_) | Entry::EmptyDirectory => None,
        })
    }

    /// Whether nothing was built.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What differs, one line each: empty when the two are equal.
    pub fn differences(&self, other: &Outputs) -> Vec<String> {
        let paths: std::collections::BTreeSet<_> = self.entries.keys().chain(other.entries.keys()).collect();
        let compare = |path: &&PathBuf| match (self.entries.get(*path), other.entries.get(*path)) {
            (Some(left), Some(right)) if left == right => None,
            (Some(left), Some(right)) => {
                Some(format!("`{}`: {} ≠ {}", path.display(), shown(left), shown(right)))
            }
            (Some(_), None) => Some(format!("`{}`: only in the first", path.display())),
            _ => Some(format!("`{}`: only in the second", path.display())),
        };
        paths.iter().filter_map(compare).collect()
    }
}

fn shown(entry: &Entry) -> String {
    match entry {
        Entry::File { content, executable } if content.len() > 200 => {
            format!("{} bytes, executable: {executable}", content.len())
        }
        Entry::File { content, executable } => {
            format!("{:?}, executable: {executable}", String::from_utf8_lossy(content))
        }
        Entry::Link(target) => format!("a link to `{}`", target.display()),
        Entry::EmptyDirectory => "an empty directory".to_owned(),
    }
}

fn read_tree(root: &Path, dir: &Path, entries: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    let children = list(dir)?;
    if children.is_empty() {
        entries.insert(relative(root, dir), Entry::EmptyDirectory);
    }
    for path in children {
        let kind = std::fs::symlink_metadata(&path)?;
        if kind.is_symlink() {
            entries.insert(relative(root, &path), Entry::Link(std::fs::read_link(&path)?));
        } else if kind.is_dir() && !has_extension(&path, "runfiles") {
            read_tree(root, &path, entries)?;
        } else if kind.is_file() && !has_extension(&path, "params") {
            entries.insert(relative(root, &path), read_file(&path, &kind)?);
        }
    }
    Ok(())
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

fn read_file(path: &Path, metadata: &std::fs::Metadata) -> Result<Entry> {
    use std::os::unix::fs::PermissionsExt;
    let content = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(Entry::File { content, executable: metadata.permissions().mode() & 0o100 != 0 })
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list `{}`", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(content: &str) -> Result<Outputs> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir_all(dir.path().join("k8/bin/a.runfiles"))?;
        std::fs::write(dir.path().join("k8/bin/a.txt"), content)?;
        std::fs::write(dir.path().join("k8/bin/a.runfiles/MANIFEST"), dir.path().display().to_string())?;
        Outputs::below(dir.path())
    }

    #[test]
    fn equal_trees_have_no_differences() -> Result<()> {
        assert_eq!(made("a")?.differences(&made("a")?), Vec::<String>::new());
        Ok(())
    }

    #[test]
    fn a_changed_byte_is_told() -> Result<()> {
        let lines = made("a")?.differences(&made("b")?);
        assert_eq!(lines, [r#"`k8/bin/a.txt`: "a", executable: false ≠ "b", executable: false"#]);
        Ok(())
    }
}
