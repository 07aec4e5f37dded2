//! What tests share: drivers of real clients and of the `mortar` binary, faults, a bad network.

pub mod apache;
pub mod bazel;
pub mod casd;
pub mod ccache;
pub mod cluster;
pub mod codec;
pub mod conformance;
pub mod faults;
pub mod harm;
pub mod http;
pub mod mortar;
pub mod network;
pub mod process;
pub mod tools;
