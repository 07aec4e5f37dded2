//! What commands have written while they run, for whoever asks. It is read from the files that they write to
//! (`sandbox`), so that nothing is kept, copied or sent that nobody wants to see.

use crate::blocking::blocking;
use bytes::Bytes;
use mortar_model::{
    Error, Result,
    session::{ExecutionId, Log, LogPiece, LogRequest},
};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// How long a request waits for something to tell.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const AGAIN: Duration = Duration::from_millis(50);
/// Bytes in one answer: it shares its stream with all else that the worker has to say.
const MOST: u64 = 128 << 10;

/// The attempts that run, and where the logs of each are. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct LiveLogs(Arc<Mutex<HashMap<ExecutionId, PathBuf>>>);

impl LiveLogs {
    /// An attempt begins; its logs will be in this directory.
    pub fn begin(&self, execution: &ExecutionId, directory: &Path) {
        self.0.lock().insert(execution.clone(), directory.to_owned());
    }

    /// It is over, and its directory goes.
    pub fn end(&self, execution: &ExecutionId) {
        self.0.lock().remove(execution);
    }

    /// The answer to a request, once there is something to tell, or after a while.
    pub async fn read(&self, asked: LogRequest) -> LogPiece {
        let until = Instant::now() + PATIENCE;
        loop {
            let piece = self.look(&asked).await;
            let told = piece.over || !piece.data.is_empty() || asked.limit == 0;
            if told || Instant::now() >= until {
                return piece;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn look(&self, asked: &LogRequest) -> LogPiece {
        let nothing = LogPiece { request: asked.request, data: Bytes::new(), size: 0, over: false };
        let Some(directory) = self.0.lock().get(&asked.execution).cloned() else {
            return LogPiece { over: true, ..nothing };
        };
        let path = directory.join(match asked.log {
            Log::Stdout => "stdout",
            Log::Stderr => "stderr",
        });
        let (offset, limit) = (asked.offset, asked.limit.min(MOST));
        match blocking(move || read(&path, offset, limit)).await {
            Ok((data, size)) => LogPiece { data, size, ..nothing },
            Err(error) => {
                // The result has it all the same, or tells why not.
                tracing::debug!(execution = %asked.execution, "a log cannot be read yet: {error}");
                nothing
            }
        }
    }
}

/// What a file holds from `offset` on, and its size. One that is not there is empty: the command has not begun.
fn read(path: &Path, offset: u64, limit: u64) -> Result<(Bytes, u64)> {
    let failed = |error: io::Error| Error::io("read a log", error);
    // Where nothing keeps a command from it, it might have put something else there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok((Bytes::new(), 0)),
        Err(error) => return Err(failed(error.into())),
    };
    let known = file.metadata().map_err(failed)?;
    if !known.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let wanted = known.len().saturating_sub(offset).min(limit);
    let mut data = vec![0; usize::try_from(wanted).expect("it is at most `MOST`")];
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    data.truncate(filled);
    Ok((data.into(), known.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn asked(offset: u64, limit: u64) -> LogRequest {
        LogRequest { request: 7, execution: ExecutionId("1".into()), log: Log::Stdout, offset, limit }
    }

    #[tokio::test]
    async fn what_is_written_is_told_bit_by_bit() {
        let directory = tempfile::tempdir().unwrap();
        let logs = LiveLogs::default();
        assert!(logs.read(asked(0, 9)).await.over, "it is not known");
        logs.begin(&ExecutionId("1".into()), directory.path());
        let size = |piece: LogPiece| (piece.request, piece.size, piece.data.len(), piece.over);
        assert_eq!(size(logs.read(asked(0, 0)).await), (7, 0, 0, false), "it has not begun");

        let waits = tokio::spawn({
            let logs = logs.clone();
            async move { logs.read(asked(0, 3)).await }
        });
        let mut file = File::create(directory.path().join("stdout")).unwrap();
        file.write_all(b"abcde").unwrap();
        let piece = waits.await.unwrap();
        assert_eq!((&piece.data[..], piece.size), (&b"abc"[..], 5));
        assert_eq!(&logs.read(asked(3, 100)).await.data[..], b"de");
        assert_eq!(size(logs.read(asked(9, 0)).await), (7, 5, 0, false));

        let waits = tokio::spawn({
            let logs = logs.clone();
            async move { logs.read(asked(5, 100)).await }
        });
        logs.end(&ExecutionId("1".into()));
        assert!(waits.await.unwrap().over);
    }

    #[tokio::test]
    async fn what_is_no_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(&secret, directory.path().join("stdout")).unwrap();
        let logs = LiveLogs::default();
        logs.begin(&ExecutionId("1".into()), directory.path());
        let piece = logs.look(&asked(0, 100)).await;
        assert_eq!((piece.data.len(), piece.size, piece.over), (0, 0, false));
    }
}
