//! The protocols as Mortar speaks them: generated types, resource names, and the conversions between those types and
//! `mortar-model`. Protocol types stop here, in service handlers and in `mortar-remote`.
//!
//! The text of the protocols is in `proto/`; `cargo xtask codegen` makes `src/generated` from it.

mod action;
mod auxiliary;
mod chunks;
mod codec;
mod digest;
mod execution;
pub mod inputs_follow;
pub mod journal;
pub mod lease;
mod merkle;
mod message_codec;
pub mod metadata;
pub mod resource;
mod result;
pub mod session;
pub mod small_outputs;
pub mod status;
mod time;

pub use action::{decode_action, decode_command, encode_action, encode_command};
pub use chunks::{chunking_from_wire, chunking_function, chunking_function_to_wire, chunking_to_wire};
pub use codec::Protobuf;
pub use digest::{
    Functioned, digest_function, digest_to_wire, digests_to_wire, function_to_wire, optional_digest,
    required_digest,
};
pub use execution::{execute_response, outcome_of, stage_to_wire};
pub use merkle::{decode_directory, decode_tree, directory_from_wire, encode_directory, encode_tree};
pub use message_codec::MessageCodec;
pub use result::{metadata_from_wire, metadata_to_wire, result_from_wire, result_to_wire};
pub use time::{duration_from_wire, duration_to_wire, timestamp_from_wire, timestamp_to_wire};

/// The descriptors of every served protocol, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// Remote Execution API v2.
pub use generated::build::bazel::remote::execution::v2 as reapi;
/// `build.bazel.semver`.
pub use generated::build::bazel::semver;
/// ByteStream.
pub use generated::google::bytestream;
/// Long-running operations.
pub use generated::google::longrunning;
/// `google.rpc`.
pub use generated::google::rpc;
/// Care of a data directory, over its admin socket.
pub use generated::mortar::admin::v1 as admin;
/// How the companion of a machine is doing.
pub use generated::mortar::companion::v1 as companion;
/// What is told of executions beyond REAPI, and kept of operations.
pub use generated::mortar::execution::v1 as execution_extras;
/// What a server is doing.
pub use generated::mortar::introspection::v1 as introspection;
/// What builds are likely to ask for next.
pub use generated::mortar::lookahead::v1 as look_ahead;
/// The worker session.
pub use generated::mortar::worker::v1 as worker;

#[allow(missing_docs, deprecated, clippy::all, clippy::pedantic, rustdoc::all)]
mod generated {
    pub mod build {
        pub mod bazel {
            pub mod remote {
                pub mod execution {
                    pub mod v2 {
                        include!("generated/build.bazel.remote.execution.v2.rs");
                    }
                }
            }
            pub mod semver {
                include!("generated/build.bazel.semver.rs");
            }
        }
    }
    pub mod google {
        pub mod bytestream {
            include!("generated/google.bytestream.rs");
        }
        pub mod longrunning {
            include!("generated/google.longrunning.rs");
        }
        pub mod rpc {
            include!("generated/google.rpc.rs");
        }
    }
    pub mod mortar {
        pub mod admin {
            pub mod v1 {
                include!("generated/mortar.admin.v1.rs");
            }
        }
        pub mod companion {
            pub mod v1 {
                include!("generated/mortar.companion.v1.rs");
            }
        }
        pub mod execution {
            pub mod v1 {
                include!("generated/mortar.execution.v1.rs");
            }
        }
        pub mod introspection {
            pub mod v1 {
                include!("generated/mortar.introspection.v1.rs");
            }
        }
        pub mod lookahead {
            pub mod v1 {
                include!("generated/mortar.lookahead.v1.rs");
            }
        }
        pub mod worker {
            pub mod v1 {
                include!("generated/mortar.worker.v1.rs");
            }
        }
    }
}

/// The field, or an error that names it.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> mortar_model::Result<T> {
    value.ok_or_else(|| mortar_model::Error::invalid(field, format!("the field `{field}` is absent")))
}

/// The message in these bytes, or an error that names what it should have been.
pub(crate) fn decode<M: prost::Message + Default>(
    what: &str,
    bytes: bytes::Bytes,
) -> mortar_model::Result<M> {
    M::decode(bytes).map_err(|error| {
        mortar_model::Error::invalid(what, format!("the blob is no {what} message: {error}"))
            .with_source(error)
    })
}
