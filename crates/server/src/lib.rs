//! The server's own parts: how executions are looked up, queued and handed to workers, the status page, and
//! [`assemble`], which stacks stores, scheduler and services into a deployment.

pub mod admin;
pub mod assemble;
pub mod bazelrc;
pub mod care;
mod infrastructure_log;
mod inputs;
mod introspection;
pub mod live_logs;
mod look_ahead;
mod look_up;
mod metrics;
mod operation_journal;
mod pool_book;
mod requirements;
mod rewind;
mod status_page;
mod worker_sessions;

pub use assemble::{Server, Settings};
pub use care::Care;
pub use mortar_scheduler::{Abandoned, Config as SchedulerConfig, KnownPool, Scheduler};
pub use mortar_store::LeaseTerms;
pub use rewind::RewindStats;
