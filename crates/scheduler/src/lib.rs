//! Decides which worker runs which action, and when.
//!
//! [`State`] is the scheduler proper: a pure state machine, `apply(now, event) → effects`. [`Scheduler`] is the handle
//! to the actor that owns one State, feeds it with events from clients, workers and the clock, and carries out its
//! effects over channels. [`QueueExecutor`] makes an [`Executor`](mortar_model::Executor) of it.
//!
//! Left to others: gRPC (the server's services turn streams into tickets and links), reading actions from the CAS
//! ([`ActionSource`]), looking results up before and recording them after.

mod actor;
mod config;
mod executor;
mod failure;
mod handle;
pub mod state;
mod status;
mod updates;

pub use config::{Abandoned, Config, KnownPool};
pub use executor::{ActionRequirements, ActionSource, QueueExecutor};
pub use failure::Failure;
pub use handle::{PoolBook, Scheduler, Ticket, WorkerLink};
pub use state::{Need, State, Submission, Update, Wish};
pub use status::{Counters, RunningAction, Standing, Status, WaitingGroup, WorkerStatus};
