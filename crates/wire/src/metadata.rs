//! What the headers of each call tell: who calls, and whether lost blobs are to be made again for him.

use crate::reapi;
use mortar_model::{RequestMetadata, context::Lost};
use prost::Message;
use tonic::metadata::{BinaryMetadataKey, BinaryMetadataValue, MetadataMap, MetadataValue};

/// The header that holds it.
pub const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// What the client told; nothing where it told nothing, or nothing that can be read.
pub fn from_headers(headers: &MetadataMap) -> RequestMetadata {
    let bytes = headers.get_bin(HEADER).and_then(|value| value.to_bytes().ok()).unwrap_or_default();
    from_wire(reapi::RequestMetadata::decode(bytes).unwrap_or_default())
}

/// Tells it to a server.
pub fn to_headers(request: &RequestMetadata, headers: &mut MetadataMap) {
    let value = BinaryMetadataValue::from_bytes(&to_wire(request).encode_to_vec());
    headers.insert_bin(BinaryMetadataKey::from_static(HEADER), value);
}

/// The header of a caller that wants to be told of lost blobs; those of other houses never send it.
const LOST: &str = "mortar-lost-blobs";

/// What the caller wants done about blobs that were lost. Made again, unless he says otherwise.
pub fn lost_from_headers(headers: &MetadataMap) -> Lost {
    match headers.get(LOST) {
        Some(value) if value == "told" => Lost::Told,
        _ => Lost::Remade,
    }
}

/// Tells a server what is to be done about blobs that were lost.
pub fn lost_to_headers(lost: Lost, headers: &mut MetadataMap) {
    if lost == Lost::Told {
        headers.insert(LOST, MetadataValue::from_static("told"));
    }
}

/// From the message.
pub fn from_wire(message: reapi::RequestMetadata) -> RequestMetadata {
    let tool = message.tool_details.unwrap_or_default();
    RequestMetadata {
        tool_name: tool.tool_name,
        tool_version: tool.tool_version,
        action_id: message.action_id,
        tool_invocation_id: message.tool_invocation_id,
        correlated_invocations_id: message.correlated_invocations_id,
        action_mnemonic: message.action_mnemonic,
        target_id: message.target_id,
        configuration_id: message.configuration_id,
    }
}

/// To the message.
pub fn to_wire(request: &RequestMetadata) -> reapi::RequestMetadata {
    let RequestMetadata { tool_name, tool_version, .. } = request.clone();
    reapi::RequestMetadata {
        tool_details: Some(reapi::ToolDetails { tool_name, tool_version }),
        action_id: request.action_id.clone(),
        tool_invocation_id: request.tool_invocation_id.clone(),
        correlated_invocations_id: request.correlated_invocations_id.clone(),
        action_mnemonic: request.action_mnemonic.clone(),
        target_id: request.target_id.clone(),
        configuration_id: request.configuration_id.clone(),
    }
}
