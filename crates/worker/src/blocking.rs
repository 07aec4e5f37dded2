//! The way off the reactor, for work on files.

use mortar_model::{Error, Result};

/// Runs `work` on a thread that may block. Await the answer always: the work goes on without anybody who waits.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a thread of the worker panicked").with_source(error)),
    }
}
