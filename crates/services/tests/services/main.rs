//! The services over memory stores and a fake executor, spoken to by plain clients on loopback.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod chunks;
mod compression;
mod executions;
mod following;
mod http;
mod http_over_grpc;
mod inlining;
mod introspection;
mod listening;
mod log_streams;
mod long_running;

mod streams;
mod support;
mod trees;
