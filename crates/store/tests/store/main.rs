//! Tests of the stores through their public interface.
#![allow(clippy::unwrap_used)]

mod completeness;
mod conformance;
mod fixture;
mod results;
