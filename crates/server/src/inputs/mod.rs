//! Whether the inputs of an action are there, before it is queued: so that a client is told at once, of all that it has to
//! upload, and no worker is kept waiting for it. Or else what is missing is waited for, where the client said that it
//! follows.
//!
//! - `walk`: finds out what is missing, as far as it can be seen · `complete`: directories that need not be walked again
//! - `arrivals`: who waits for which blobs · `told`: the ports through which blobs come in, and waiters are told
//! - `following`: the executor that waits
//!
//! A client that says nothing is answered by `requirements`, with the same walk. What is damaged, and what goes away
//! later, is found where the action is run.

mod arrivals;
mod complete;
mod following;
#[cfg(test)]
mod tests;
mod told;
mod walk;

pub(crate) use arrivals::Arrivals;
pub(crate) use complete::Complete;
pub(crate) use following::Following;
pub(crate) use told::Told;
pub(crate) use walk::Walk;

use std::time::Duration;

/// The longest that an execution waits for its inputs, whatever its client asks for.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);
