//! Protobuf as the stores' codec.

use crate::{decode, decode_directory, decode_tree, result_from_wire, result_to_wire};
use bytes::Bytes;
use mortar_model::{ActionResult, Codec, DigestFunction, Directory, Result, Tree};
use prost::Message;

/// Keeps messages as the protocol encodes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protobuf;

impl Codec for Protobuf {
    fn encode_result(&self, result: &ActionResult) -> Bytes {
        result_to_wire(result).encode_to_vec().into()
    }

    fn decode_result(&self, function: DigestFunction, bytes: Bytes) -> Result<ActionResult> {
        result_from_wire(function, decode("ActionResult", bytes)?)
    }

    fn decode_tree(&self, function: DigestFunction, bytes: Bytes) -> Result<Tree> {
        decode_tree(function, bytes)
    }

    fn decode_directory(&self, function: DigestFunction, bytes: Bytes) -> Result<Directory> {
        decode_directory(function, bytes)
    }
}
