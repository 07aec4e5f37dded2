//! The companion.

pub mod race;
