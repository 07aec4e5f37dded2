//! A disk without room, told as that. A command may well not look whether its writes went through, and one that fails may
//! fail for that alone: where nothing was left at any time of a run, what came of it is no result. Another worker may have
//! room; a client is told which one had none.
//!
//! Looking at the end is not enough: by then others, or the command itself, may have given some of it back. So the disk is
//! looked at all the time that a run takes, the oftener the less is left, and by each before it gives back.

use mortar_model::{Error, Kind, Result};
use rustix::fs::{StatVfs, statvfs};
use std::{
    convert::Infallible,
    error::Error as _,
    future::Future,
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// With so few bytes left, writes have failed, or are about to.
const LEAST: u64 = 256 << 10;
/// By then, other actions may have given some of it back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long to look away while less than [`FASTEST`] writes in that time is left, and for how long at most.
const OFTENEST: Duration = Duration::from_millis(5);
const SELDOMEST: Duration = Duration::from_secs(1);
/// Bytes that commands write to a disk in a second, at most.
const FASTEST: u64 = 4 << 30;

/// The disk that a worker runs actions on.
#[derive(Debug)]
pub struct Room {
    worker: String,
    directory: PathBuf,
    /// How often it was seen to be full.
    full: AtomicU64,
}

impl Room {
    pub fn new(worker: &str, directory: impl Into<PathBuf>) -> Self {
        Self { worker: worker.into(), directory: directory.into(), full: AtomicU64::new(0) }
    }

    /// Does `work`, which has come to nothing where the disk was full meanwhile.
    pub async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let before = self.full.load(Ordering::Relaxed);
        let done = tokio::select! {
            done = work => done?,
            never = self.watch() => match never {},
        };
        self.look();
        match self.full.load(Ordering::Relaxed) == before {
            true => Ok(done),
            false => Err(self.error()),
        }
    }

    /// Looks at the disk, so that all who run now know of it: before room is given back. The bytes that are left.
    pub fn look(&self) -> u64 {
        // Where that cannot be asked, writes will tell.
        let Ok(disk) = statvfs(&self.directory) else { return u64::MAX };
        if is_full(&disk) {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        left(&disk)
    }

    /// Names a full disk where that is why something failed. The texts of I/O errors stay on the machine.
    pub fn explain(&self, error: Error) -> Error {
        if !matches!(error.kind(), Kind::Io { .. } | Kind::Internal { .. } | Kind::ResourceExhausted { .. }) {
            return error;
        }
        let mut cause = error.source();
        while let Some(deeper) = cause {
            let kind = deeper.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
                return self.error().with_source(error);
            }
            cause = deeper.source();
        }
        match statvfs(&self.directory) {
            Ok(disk) if is_full(&disk) => self.error().with_source(error),
            _ => error,
        }
    }

    async fn watch(&self) -> Infallible {
        loop {
            let pause = Duration::from_secs_f64(self.look() as f64 / FASTEST as f64);
            tokio::time::sleep(pause.clamp(OFTENEST, SELDOMEST)).await;
        }
    }

    fn error(&self) -> Error {
        let message = format!("the disk is full on which worker `{}` runs actions", self.worker);
        Error::new(Kind::ResourceExhausted { message, retry_after: Some(RETRY_AFTER) })
    }
}

fn left(disk: &StatVfs) -> u64 {
    disk.f_bavail.saturating_mul(disk.f_frsize)
}

fn is_full(disk: &StatVfs) -> bool {
    // Some file systems count no files.
    let files_left = disk.f_files == 0 || disk.f_favail > 0;
    // A disk that is smaller than that altogether is somebody's choice.
    (left(disk) < LEAST && disk.f_blocks.saturating_mul(disk.f_frsize) > LEAST) || !files_left
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::new("w", directory.path());
        let explained = |error| room.explain(error).to_string();
        let full = io::Error::from(rustix::io::Errno::NOSPC);
        let text = explained(Error::io("write the input `a`", full));
        assert!(text.starts_with("the disk is full on which worker `w` runs actions"), "{text}");
        let refused = io::Error::from(rustix::io::Errno::ACCESS);
        assert!(!explained(Error::io("write the input `a`", refused)).contains("full"));
    }

    #[tokio::test]
    async fn what_ran_while_the_disk_was_full_is_no_result() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::new("w", directory.path());
        let told = |done: Result<i32>| done.map_err(|error| error.to_string());
        assert_eq!(told(room.during(async { Ok(7) }).await), Ok(7));
        // Another looks while this one runs; what comes later is a new run.
        let met = room.during(async {
            room.full.fetch_add(1, Ordering::Relaxed);
            Ok(7)
        });
        assert_eq!(told(met.await), Err("the disk is full on which worker `w` runs actions".into()));
        assert_eq!(told(room.during(async { Ok(8) }).await), Ok(8));
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
