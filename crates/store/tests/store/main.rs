//! The stores and decorators under the conformance suite, and the disk store under faults.
#![allow(clippy::unwrap_used)]

mod conformance;
mod encodings;
mod fixture;
mod import;
mod pins;
mod results;
mod resumed;
mod squeeze;
