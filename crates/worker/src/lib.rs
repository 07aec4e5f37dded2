//! Runs actions on this machine: the `Executor` chain of a worker, and its session with a server.
//!
//! Life of an action (`executor.rs`, one file a step):
//!
//! 1. `fetch` reads the Action, its Command and the directories of its input root (`tree`).
//! 2. `images` has the root file system that it may ask for. `outputs` tells where outputs go; `stage` sees to the input root: a large one is kept for all actions that have it
//!    (`cache`) and the run's own directory laid over it, a small one is made for this action alone.
//! 3. `run` starts the command in the sandbox and waits for its end, its time limit, or a cancel; `room` sees to it that a
//!    full disk makes no results.
//!    An action that asks for a persistent worker is done by one instead, if that can be (`persistent`).
//! 4. `collect` looks at what the command left; `upload` stores it.
//! 5. `record` puts the result of a success into the action cache.
//!
//! Before the first one, `trials` finds out what the machine permits. Who has an action and no server has `direct`.
//! What a command has written by now can be read while it runs (`live_logs`).
//!
//! Storage, action cache and the way to the server are passed in: in one process with the server they are the
//! server's own, elsewhere they are remote. Queues, retries and merging are the server's business.

mod alone;
mod beneath;
mod blocking;
mod cache;
mod capacity;
mod collect;
mod config;
mod connect;
mod direct;
mod executor;
mod fetch;
mod images;
mod job;
mod live_logs;
mod merged;
mod outputs;
mod persistent;
mod record;
mod room;
mod run;
mod scratch;
mod session;
mod shutdown;
mod source;
mod stage;
mod tree;
mod trials;
mod undelivered;
mod upload;

pub use config::{CacheLimits, Limits, Near, Stores, WorkerConfig};
pub use connect::connect;
pub use executor::Worker;
pub use images::{Images, Imported};
pub use scratch::check_directory;
pub use session::{SessionEnd, serve};
pub use shutdown::{Phase, Shutdown, ShutdownHandle, shutdown};
