//! The stores and decorators under the conformance suite, and the disk store under faults.
#![allow(clippy::unwrap_used)]

mod completeness;
mod conformance;
mod encodings;
mod fixture;
mod import;
mod results;
mod resumed;
mod squeeze;
mod values;
