//! A disk without room, told as that. A command may well not look whether its writes went through: where nothing is left
//! after a run, what it made is no result. Another worker may have room; a client is told which one had none.

use mortar_model::{Error, Kind, Result};
use rustix::fs::{StatVfs, statvfs};
use std::{error::Error as _, io, path::Path, time::Duration};

/// With so few bytes left, writes have failed, or are about to.
const LEAST: u64 = 256 << 10;
/// By then, other actions may have given some of it back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error where the disk that `directory` is on is full.
pub fn check(worker: &str, directory: &Path) -> Result<()> {
    // Where that cannot be asked, writes will tell.
    match statvfs(directory) {
        Ok(disk) if is_full(&disk) => Err(full(worker)),
        _ => Ok(()),
    }
}

/// Names a full disk where that is why something failed. The texts of I/O errors stay on the machine.
pub fn explain(worker: &str, directory: &Path, error: Error) -> Error {
    if !matches!(error.kind(), Kind::Io { .. } | Kind::Internal { .. } | Kind::ResourceExhausted { .. }) {
        return error;
    }
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let kind = deeper.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return full(worker).with_source(error);
        }
        cause = deeper.source();
    }
    match check(worker, directory) {
        Err(full) => full.with_source(error),
        Ok(()) => error,
    }
}

fn is_full(disk: &StatVfs) -> bool {
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    // Some file systems count no files.
    let files_left = disk.f_files == 0 || disk.f_favail > 0;
    // A disk that is smaller than that altogether is somebody's choice.
    (left < LEAST && disk.f_blocks.saturating_mul(disk.f_frsize) > LEAST) || !files_left
}

fn full(worker: &str) -> Error {
    let message = format!("the disk is full on which worker `{worker}` runs actions");
    Error::new(Kind::ResourceExhausted { message, retry_after: Some(RETRY_AFTER) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let explained = |error| explain("w", directory.path(), error).to_string();
        let full = io::Error::from(rustix::io::Errno::NOSPC);
        let text = explained(Error::io("write the input `a`", full));
        assert!(text.starts_with("the disk is full on which worker `w` runs actions"), "{text}");
        let refused = io::Error::from(rustix::io::Errno::ACCESS);
        assert!(!explained(Error::io("write the input `a`", refused)).contains("full"));
        assert!(check("w", directory.path()).is_ok());
    }

    #[test]
    fn bytes_and_files_can_run_out() {
        let mut disk = statvfs("/").unwrap();
        (disk.f_frsize, disk.f_blocks, disk.f_bavail, disk.f_files, disk.f_favail) =
            (4096, 10_000, 64, 100, 1);
        assert!(!is_full(&disk));
        assert!(is_full(&StatVfs { f_bavail: 63, ..disk }));
        assert!(is_full(&StatVfs { f_favail: 0, ..disk }));
        assert!(!is_full(&StatVfs { f_favail: 0, f_files: 0, ..disk }));
    }
}
