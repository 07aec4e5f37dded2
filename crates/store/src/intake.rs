//! Where the bytes of one blob go on their way into a store, piece by piece, whatever the store.

use crate::blocking::{gather, hop};
use bytes::Bytes;
use mortar_model::{Blob, Result};

/// Takes the bytes of one blob, in order. Both methods may block. Dropping it discards what was taken.
pub(crate) trait Intake: Send + Sized + 'static {
    /// Takes the next bytes. After an error it is of no further use.
    fn take(&mut self, pieces: &[Bytes]) -> Result<()>;

    /// Checks the whole and keeps it.
    fn finish(self) -> Result<()>;

    /// How many bytes were taken before it was made: those of an upload that is continued.
    fn taken(&self) -> u64 {
        0
    }
}

/// Takes a whole blob. While one piece is hashed and written, the next is received.
pub(crate) async fn stream_into<I: Intake>(mut intake: I, blob: Blob) -> Result<()> {
    let mut stream = blob.into_stream();
    let mut pieces = gather(&mut stream).await?;
    while !pieces.is_empty() {
        let taken = hop(move || intake.take(&pieces).map(|()| intake));
        let next = gather(&mut stream).await;
        intake = taken.await?;
        pieces = next?;
    }
    hop(move || intake.finish()).await
}
