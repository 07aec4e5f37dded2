//! What tests share: drivers of real clients and of the `mortar` binary.

pub mod apache;
pub mod bazel;
pub mod casd;
pub mod ccache;
pub mod codec;
pub mod conformance;
pub mod faults;
pub mod harm;
pub mod http;
pub mod mortar;
pub mod process;
pub mod tools;
