//! Two places for one action: this machine and the upstream.
//!
//! [`Race`] lets the first to finish win, [`Fallback`] runs here what the upstream cannot take, [`Compare`] runs both and
//! tells where their results differ. `local` is what they have in common: the slots of this machine, and the question
//! whether an action can run here (`suits`). `costs` and `plan` decide who starts when; they are pure.
//!
//! The caller has looked the cache up before. Whoever runs an action here records its result; what becomes of the
//! upstream's part when it has lost is the upstream's policy: its call ends, as that of any client that leaves.

mod compare;
mod costs;
mod fallback;
mod local;
mod plan;
mod racing;
mod suits;

pub use compare::{Compare, Comparisons, Difference, Report};
pub use fallback::Fallback;
pub use local::Local;
pub use racing::{Race, Tally};
pub use suits::{StoredPlatforms, Suits};

#[cfg(test)]
mod tests;
