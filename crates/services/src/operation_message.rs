//! An execution as `google.longrunning.Operation`: what streams, look-ups and lists of operations have in common.

use crate::{
    call,
    inline::{self, Hints},
    log_streams,
    operations::{Operation, State},
};
use mortar_model::{BlobStore, Outcome, Result, Stage};
use mortar_wire::{
    digest_to_wire, execute_response, function_to_wire, longrunning, metadata, metadata_to_wire, reapi,
    stage_to_wire,
};
use prost::Message;

/// The operation in this state, with its response once it is over.
pub(crate) async fn whole(
    operation: &Operation,
    state: &State,
    hints: &Hints,
    blobs: &dyn BlobStore,
) -> longrunning::Operation {
    let result = match state.done.as_deref() {
        None => None,
        Some(outcome) => Some(response(operation, outcome, hints, blobs).await),
    };
    let result = result.map(|response| {
        let response = any("build.bazel.remote.execution.v2.ExecuteResponse", &response);
        longrunning::operation::Result::Response(response)
    });
    message(operation, &execute_metadata(operation, state), result)
}

/// The operation in this state without a response, and with what its client told of it: for lists.
pub(crate) fn outline(operation: &Operation, state: &State) -> longrunning::Operation {
    let mut told = execute_metadata(operation, state);
    let request = metadata::to_wire(&operation.context.request);
    let request = any("build.bazel.remote.execution.v2.RequestMetadata", &request);
    told.partial_execution_metadata.get_or_insert_default().auxiliary_metadata.push(request);
    message(operation, &told, None)
}

fn message(
    operation: &Operation,
    metadata: &reapi::ExecuteOperationMetadata,
    result: Option<longrunning::operation::Result>,
) -> longrunning::Operation {
    longrunning::Operation {
        name: operation.name.clone(),
        metadata: Some(any("build.bazel.remote.execution.v2.ExecuteOperationMetadata", metadata)),
        done: result.is_some(),
        result,
    }
}

fn execute_metadata(operation: &Operation, state: &State) -> reapi::ExecuteOperationMetadata {
    let stage = if state.done.is_some() { Some(Stage::Completed) } else { state.stage };
    let digest = operation.action_digest;
    // What the cache answers is not run, so that there is nothing to watch.
    let names = log_streams::names(&operation.name).filter(|_| state.stage >= Some(Stage::Queued));
    let [stdout_stream_name, stderr_stream_name] = names.unwrap_or_default();
    reapi::ExecuteOperationMetadata {
        stage: stage.map_or(reapi::execution_stage::Value::Unknown, stage_to_wire).into(),
        action_digest: Some(digest_to_wire(digest)),
        partial_execution_metadata: Some(metadata_to_wire(&state.metadata)),
        digest_function: function_to_wire(digest.function()).into(),
        stdout_stream_name,
        stderr_stream_name,
    }
}

async fn response(
    operation: &Operation,
    outcome: &Result<Outcome>,
    hints: &Hints,
    blobs: &dyn BlobStore,
) -> reapi::ExecuteResponse {
    match outcome {
        Ok(outcome) => {
            let mut outcome = outcome.clone();
            inline::fill(&operation.context, blobs, hints, &mut outcome.result).await;
            execute_response(Ok(&outcome))
        }
        Err(error) => {
            call::log(error);
            execute_response(Err(error))
        }
    }
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}
