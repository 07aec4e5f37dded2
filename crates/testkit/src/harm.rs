//! What happens to a store behind its back: one function that knows no store's layout.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What is done to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// It is taken away; where it shares a file with others, zeros take its place.
    Remove,
    /// One of its bits is flipped.
    Flip,
}

/// Shorter content than this is only looked for by its name: it may occur in other content.
const DISTINCT: usize = 24;

/// Harms a blob wherever it lies below `store`: files that have its hash in their names, or else files in which its
/// content occurs. Whether there was one.
pub fn harm(store: &Path, hash: &str, content: &[u8], harm: Harm) -> Result<bool> {
    let files = files_below(store)?;
    let named = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(hash));
    let own: Vec<_> = files.iter().filter(named).collect();
    for path in &own {
        match harm {
            Harm::Remove => fs::remove_file(path)?,
            Harm::Flip => rewrite(path, |bytes| bytes.first_mut().map(|byte| *byte ^= 1).is_some())?,
        }
    }
    if !own.is_empty() || content.len() < DISTINCT {
        return Ok(!own.is_empty());
    }
    let mut found = false;
    for path in &files {
        rewrite(path, |bytes| {
            let Some(at) = bytes.windows(content.len()).position(|window| window == content) else {
                return false;
            };
            found = true;
            match harm {
                Harm::Remove => bytes[at..at + content.len()].fill(0),
                Harm::Flip => bytes[at] ^= 1,
            }
            true
        })?;
    }
    Ok(found)
}

/// Writes a file anew, in its place, if it is changed.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<()> {
    let mut bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if change(&mut bytes) {
        let mode = fs::metadata(path)?.permissions().mode();
        fs::set_permissions(path, Permissions::from_mode(mode | 0o200))?;
        fs::write(path, bytes)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list `{}`", directory.display()))? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(files_below(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_found_by_its_name_or_its_content() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("ab"))?;
        let content = b"content that is long enough to be sought";
        let shared = [b"before", content.as_ref(), b"after"].concat();
        for (how, alone, within) in [
            (Harm::Flip, Some(b"bontent".as_ref()), b"beforebontent".as_ref()),
            (Harm::Remove, None, b"before\0\0\0\0\0\0\0".as_ref()),
        ] {
            fs::write(at("ab/abcd-x"), content)?;
            fs::write(at("segment"), &shared)?;
            assert!(harm(dir.path(), "abcd", content, how)?);
            assert_eq!(fs::read(at("ab/abcd-x")).ok().as_deref().map(|bytes| &bytes[..7]), alone);
            assert_eq!(fs::read(at("segment"))?, shared, "a file of its own is enough");
            fs::write(at("ab/abcd-x"), "something else")?;
            assert!(harm(dir.path(), "1234", content, how)?);
            assert_eq!(&fs::read(at("segment"))?[..within.len()], within);
        }
        assert!(!harm(dir.path(), "1234", b"short", Harm::Flip)?);
        Ok(())
    }
}
