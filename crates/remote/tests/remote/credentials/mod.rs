//! Credentials: every source against a fake of what it asks, calls against a server that refuses them, and nothing of it
//! in any text.

mod authority;
mod calls;
mod endpoint;
mod masking;
mod sources;
mod tls;
