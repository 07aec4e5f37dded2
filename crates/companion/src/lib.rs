//! The companion: the daemon on a developer's machine or CI runner that stands between a client and its servers. A
//! first-level cache, a journal of what is still to be uploaded, and the life of the process.
//!
//! [`assemble`] stacks the parts; clients are served by `mortar-services`, as those of a server are. [`life`] is how one
//! companion comes to be, is found, handed over and ended. Left to others: what servers do, and how one talks to them
//! (`mortar-remote`).

pub mod activity;
mod admin;
mod ahead;
pub mod assemble;
mod debts;
mod deferrals;
mod execute;
mod ferry;
mod here;
mod inputs;
mod knowledge;
pub mod life;
mod near;
mod offered;
pub mod race;
mod renew;
mod results;
mod terms;
mod upstream;

pub use assemble::{Companion, Settings};
pub use debts::{Bounds, Flushed, Left, Refused};
pub use here::{Mode, WorkerPorts};
pub use upstream::UpstreamAddress;
