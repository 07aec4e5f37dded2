//! Harm that is done to a store behind its back: blobs vanish, or a bit of them flips.

use anyhow::{Context, Result};
use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What is done to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// It is gone: its file is removed, or its record overwritten.
    Remove,
    /// One bit of it flips.
    Flip,
}

/// What a record of the store's segments begins with, where its hash lies, and its payload.
const RECORD: &[u8] = b"mRec";
const HASH_AT: usize = 40;
const PAYLOAD_AT: usize = 72;
/// The role of records that hold content.
const CONTENT: u8 = 1;

/// Harms a blob wherever it lies below `data`: in files that have its hash in their names, and in records of segments.
/// Whether there was one. What the store itself removes meanwhile is left out.
pub fn harm(data: &Path, hash: &[u8; 32], harm: Harm) -> Result<bool> {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut found = false;
    for path in files_below(data)? {
        match harm_file(&path, &hex, hash, harm) {
            Ok(harmed) => found |= harmed,
            Err(_) if !path.exists() => {}
            Err(error) => return Err(error.context(format!("harming `{}`", path.display()))),
        }
    }
    Ok(found)
}

fn harm_file(path: &Path, hex: &str, hash: &[u8; 32], harm: Harm) -> Result<bool> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains(hex) {
        match harm {
            Harm::Remove => fs::remove_file(path)?,
            Harm::Flip => overwrite(path, 0, |byte| byte ^ 1, 1)?,
        }
        return Ok(true);
    }
    let is_segment = path.parent().is_some_and(|above| above.ends_with("segments"));
    Ok(is_segment && harm_records(path, hash, harm)?)
}

fn harm_records(path: &Path, hash: &[u8; 32], harm: Harm) -> Result<bool> {
    let bytes = fs::read(path)?;
    let is_content = |start: usize| {
        bytes.get(start..start + 5) == Some(&[RECORD, &[CONTENT]].concat())
            && bytes.get(start + HASH_AT..start + PAYLOAD_AT) == Some(hash)
    };
    let mut found = false;
    // Records begin at multiples of eight bytes.
    for start in (0..bytes.len()).step_by(8).filter(|start| is_content(*start)) {
        found = true;
        match harm {
            Harm::Remove => overwrite(path, start as u64, |_| 0, PAYLOAD_AT)?,
            Harm::Flip => overwrite(path, (start + PAYLOAD_AT) as u64, |byte| byte ^ 1, 1)?,
        }
    }
    Ok(found)
}

/// Changes some bytes of a file in their place.
fn overwrite(path: &Path, at: u64, change: impl Fn(u8) -> u8, length: usize) -> Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, Permissions::from_mode(mode | 0o200))?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    bytes.iter_mut().for_each(|byte| *byte = change(*byte));
    file.write_all_at(&bytes, at)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(())
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(_) if !directory.exists() => return Ok(found),
        entries => entries.with_context(|| format!("cannot list `{}`", directory.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_found_by_its_name_and_in_segments() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let hash = [0xab; 32];
        let named = dir.path().join("ab".repeat(32));
        fs::write(&named, "content")?;
        assert!(harm(dir.path(), &hash, Harm::Flip)?);
        assert_eq!(fs::read(&named)?, b"bontent");
        assert!(harm(dir.path(), &hash, Harm::Remove)?);
        assert!(!named.exists() && !harm(dir.path(), &hash, Harm::Remove)?);

        fs::create_dir(dir.path().join("segments"))?;
        let segment = dir.path().join("segments/00000001");
        let mut record = vec![0; 64];
        record.extend_from_slice(b"mRec\x01");
        record.resize(64 + HASH_AT, 0);
        record.extend_from_slice(&hash);
        record.extend_from_slice(b"content");
        fs::write(&segment, &record)?;
        assert!(harm(dir.path(), &hash, Harm::Flip)?);
        assert!(fs::read(&segment)?.ends_with(b"bontent"));
        assert!(harm(dir.path(), &hash, Harm::Remove)?);
        assert!(!harm(dir.path(), &hash, Harm::Remove)?);
        Ok(())
    }
}
