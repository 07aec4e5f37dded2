//! What commands write, as streams that grow: read by ByteStream under names of the LogStream protocol, which the
//! messages of an operation tell (`[INSTANCE/]logstreams/ID-stdout`).
//!
//! While the command runs, its worker is asked piece by piece ([`LiveLogs`]), each time that the client has taken the
//! one before; afterwards the result has it, for as long as the operation is known. Reading keeps no execution alive.

use crate::{
    content::Pieces,
    operations::{Operations, State},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use mortar_model::{
    BlobStore, ByteStream, Context, Digest, Error, Kind, Outcome, Range, Result,
    session::{ExecutionId, Log, LogPiece},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams that are read at the same time.
const READERS: usize = 256;
/// Bytes that are asked for at a time.
const PIECE: u64 = 128 << 10;
/// How often it is looked whether an execution that is on no worker has got to one, or is over.
const AGAIN: Duration = Duration::from_millis(50);

/// Knows who runs what, and asks there.
#[async_trait]
pub trait LiveLogs: Send + Sync {
    /// Some of what the command of an action has written, which waits a while for there to be something. None where
    /// nobody runs it for this operation or one that shares its execution. With a limit of 0, the size is told at once.
    async fn read(
        &self,
        context: &Context,
        action: Digest,
        log: Log,
        range: (u64, u64),
    ) -> Result<Option<(ExecutionId, LogPiece)>>;
}

/// The names of an operation's streams: standard output, standard error.
pub(crate) fn names(operation: &str) -> Option<[String; 2]> {
    let (instance, id) = operation.rsplit_once("operations/")?;
    Some(["stdout", "stderr"].map(|log| format!("{instance}logstreams/{id}-{log}")))
}

/// Operation and stream of a name, if it is one of these.
fn parse(name: &str) -> Option<(String, Log)> {
    let (parent, id) = name.strip_prefix('/').unwrap_or(name).rsplit_once('/')?;
    let instance = parent.strip_suffix("logstreams")?;
    if !(instance.is_empty() || instance.ends_with('/')) {
        return None;
    }
    let (id, log) = match id.rsplit_once('-')? {
        (id, "stdout") => (id, Log::Stdout),
        (id, "stderr") => (id, Log::Stderr),
        _ => return None,
    };
    Some((format!("{instance}operations/{id}"), log))
}

/// Whether a name is of a stream of this kind, right or wrong.
pub(crate) fn is_meant(name: &str) -> bool {
    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
    parent.rsplit('/').next() == Some("logstreams")
}

/// The streams of one server.
#[derive(Clone)]
pub(crate) struct LogStreams {
    operations: Operations,
    blobs: Arc<dyn BlobStore>,
    readers: Arc<Semaphore>,
}

impl LogStreams {
    pub(crate) fn new(operations: Operations, blobs: Arc<dyn BlobStore>) -> Self {
        Self { operations, blobs, readers: Arc::new(Semaphore::new(READERS)) }
    }

    /// Reads a stream from an offset on, until the end of the execution or of the range.
    pub(crate) fn read(&self, name: &str, range: Range) -> Result<Reading> {
        let (operation, log) = self.known(name)?;
        let Ok(permit) = self.readers.clone().try_acquire_owned() else {
            let message = format!("{READERS} logs are being read; more are not at the same time");
            let retry_after = Some(Duration::from_secs(1));
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after }));
        };
        let (streams, Range { offset, limit: left }) = (self.clone(), range);
        Ok(Reading { streams, operation, log, offset, left, attempt: None, rest: None, _permit: permit })
    }

    /// How much was written by now, and whether that is all.
    pub(crate) async fn size(&self, name: &str) -> Result<(u64, bool)> {
        let (operation, log) = self.known(name)?;
        let (known, state) = self.operations.look(&operation)?;
        if let Some(outcome) = &state.done {
            return Ok((whole(&operation, outcome, log)?.size(), true));
        }
        let Some(live) = self.operations.live() else { return Ok((0, false)) };
        let piece = live.read(&known.context, known.action_digest, log, (0, 0)).await?;
        Ok((piece.map_or(0, |(_, piece)| piece.size), false))
    }

    fn known(&self, name: &str) -> Result<(String, Log)> {
        let known = parse(name).filter(|(operation, _)| self.operations.look(operation).is_ok());
        known.ok_or_else(|| {
            Error::not_found("log stream", name).hint(
                "the logs of an action can be read by this name while it waits and runs, and for two minutes after its \
                 end; its result has them then",
            )
        })
    }
}

/// One stream on its way to one client.
pub(crate) struct Reading {
    streams: LogStreams,
    operation: String,
    log: Log,
    offset: u64,
    left: Option<u64>,
    /// Whose bytes were passed on.
    attempt: Option<Attempt>,
    /// What the result has of it, once there is one.
    rest: Option<ByteStream>,
    _permit: OwnedSemaphorePermit,
}

struct Attempt {
    execution: ExecutionId,
    /// When a worker took it on, by that worker's clock, where that was told.
    begun: Option<SystemTime>,
}

impl Pieces for Reading {
    async fn piece(&mut self) -> Option<Result<Bytes>> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            if let Some(rest) = &mut self.rest {
                return rest.next().await;
            }
            match self.next().await {
                Ok(None) => {}
                Ok(Some(data)) => return Some(Ok(data)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Reading {
    /// What came next; nothing where it is to be tried again.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let (known, state) = self.streams.operations.look(&self.operation)?;
        if let Some(outcome) = &state.done {
            self.rest = Some(self.remainder(&known.context, outcome).await?);
            return Ok(None);
        }
        let live = self.streams.operations.live();
        let piece = match live.filter(|_| state.is_running()) {
            None => None,
            Some(live) => {
                let range = (self.offset, self.left.map_or(PIECE, |left| left.min(PIECE)));
                live.read(&known.context, known.action_digest, self.log, range).await?
            }
        };
        // Also where it has not written as much yet.
        if piece.as_ref().is_some_and(|(execution, _)| self.has_of_another(execution)) {
            return Err(begun_anew(&self.operation));
        }
        match piece.filter(|(_, piece)| !piece.over) {
            None => {
                // A subscription to its state would count as a client that waits for it.
                tokio::time::sleep(AGAIN).await;
                Ok(None)
            }
            Some((_, piece)) if piece.data.is_empty() => Ok(None),
            Some((execution, piece)) => Ok(Some(self.take(execution, &state, piece.data))),
        }
    }

    /// Whether bytes of another attempt than this were passed on.
    fn has_of_another(&self, execution: &ExecutionId) -> bool {
        self.attempt.as_ref().is_some_and(|before| before.execution != *execution)
    }

    fn take(&mut self, execution: ExecutionId, state: &State, data: Bytes) -> Bytes {
        let before = self.attempt.take().and_then(|before| before.begun);
        self.attempt = Some(Attempt { execution, begun: state.metadata.worker_start.or(before) });
        self.offset += data.len() as u64;
        self.left = self.left.map(|left| left - data.len() as u64);
        data
    }

    /// What the result has beyond that which was passed on. By `&mut`, since what streams is not shared between threads.
    async fn remainder(&mut self, context: &Context, outcome: &Result<Outcome>) -> Result<ByteStream> {
        let whole = whole(&self.operation, outcome, self.log)?;
        let begun = outcome.as_ref().ok().and_then(|outcome| outcome.result.metadata.worker_start);
        let before = self.attempt.as_ref().and_then(|attempt| attempt.begun);
        if before.zip(begun).is_some_and(|(before, begun)| before != begun) {
            return Err(begun_anew(&self.operation));
        }
        let range = Range { offset: self.offset, limit: self.left };
        match whole {
            Whole::Stored(digest) => Ok(self.streams.blobs.read(context, digest, range).await?.into_stream()),
            Whole::Inline(bytes) => {
                let start = usize::try_from(range.offset).ok().filter(|start| *start <= bytes.len());
                let start = start.ok_or_else(|| {
                    let (offset, length) = (range.offset, bytes.len());
                    let message = format!("offset {offset} is past the end of the log of {length} bytes");
                    Error::new(Kind::OutOfRange { message })
                })?;
                let most = range.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
                let end = start.saturating_add(most).min(bytes.len());
                Ok(futures::stream::iter([Ok(bytes.slice(start..end))]).boxed())
            }
        }
    }
}

/// A log as a result has it.
enum Whole {
    Stored(Digest),
    Inline(Bytes),
}

impl Whole {
    fn size(&self) -> u64 {
        match self {
            Self::Stored(digest) => digest.size(),
            Self::Inline(bytes) => bytes.len() as u64,
        }
    }
}

fn whole(operation: &str, outcome: &Result<Outcome>, log: Log) -> Result<Whole> {
    let result = match outcome {
        Ok(outcome) => &outcome.result,
        Err(error) => {
            // As clients are told it: the error itself may name local paths.
            let why = mortar_wire::status::to_status(error);
            let message = format!("operation `{operation}` ended without a result: {}", why.message());
            return Err(Error::new(Kind::FailedPrecondition { message }));
        }
    };
    let (digest, raw) = match log {
        Log::Stdout => (result.stdout_digest, &result.stdout_raw),
        Log::Stderr => (result.stderr_digest, &result.stderr_raw),
    };
    Ok(match digest {
        Some(digest) if raw.is_empty() => Whole::Stored(digest),
        _ => Whole::Inline(raw.clone()),
    })
}

fn begun_anew(operation: &str) -> Error {
    let message = format!("what was read is of an attempt that failed; operation `{operation}` made another");
    Error::new(Kind::Aborted { message }).hint("read the log again from its start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_operation() {
        for operation in ["operations/1-2", "team/operations/x", "a/b/operations/1"] {
            let [stdout, stderr] = names(operation).unwrap();
            assert_eq!(parse(&stdout), Some((operation.to_owned(), Log::Stdout)));
            assert_eq!(parse(&format!("/{stderr}")), Some((operation.to_owned(), Log::Stderr)));
            assert!(is_meant(&stdout) && is_meant(&stderr));
        }
        assert_eq!(names("operations/1").unwrap()[0], "logstreams/1-stdout");
        for wrong in
            ["", "logstreams/1", "xlogstreams/1-stdout", "logstreams/1-stdin", "blobs/logstreams-stdout"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(is_meant("a/logstreams/1") && !is_meant("blobs/abc/1") && !is_meant("logstreams"));
    }
}
