//! `Remote` against a server that fails by script: what is resumed, what is repeated, what is refused.
//!
//! That client and server of our own agree is the loopback's business, in `crates/cli`.

#![allow(clippy::unwrap_used)]

mod batches;
mod breaking;
mod compressing;
mod credentials;
mod executing;
mod fake;
mod http;
mod reaching;
mod reading;
mod untaken;
mod writing;
