//! The calls that Bazel made, as it writes them down itself (`--experimental_remote_grpc_log`): messages of its
//! `remote_logging.LogEntry`, each after its length. Only what tests look at is decoded.

use std::path::Path;

use anyhow::{Context, Result};
use mortar_wire::{longrunning::Operation, reapi};
use prost::Message;

/// One call.
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    /// The full name of its method.
    #[prost(string, tag = "3")]
    pub method: String,
    #[prost(message, optional, tag = "4")]
    details: Option<Details>,
}

#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, optional, tag = "7")]
    execute: Option<Execute>,
    #[prost(message, optional, tag = "8")]
    look_up: Option<LookUp>,
}

#[derive(Clone, PartialEq, Message)]
struct Execute {
    #[prost(message, optional, tag = "1")]
    request: Option<reapi::ExecuteRequest>,
    #[prost(message, repeated, tag = "2")]
    operations: Vec<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct LookUp {
    #[prost(message, optional, tag = "1")]
    request: Option<reapi::GetActionResultRequest>,
    #[prost(message, optional, tag = "2")]
    result: Option<reapi::ActionResult>,
}

/// All calls of a log.
pub fn read(log: &Path) -> Result<Vec<Call>> {
    let bytes = std::fs::read(log).with_context(|| format!("cannot read `{}`", log.display()))?;
    let (mut rest, mut calls) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        calls.push(Call::decode_length_delimited(&mut rest).context("the log does not hold what it should")?);
    }
    Ok(calls)
}

impl Call {
    /// The request of an Execute, and the result in its last operation.
    pub fn execute(&self) -> Option<(reapi::ExecuteRequest, reapi::ActionResult)> {
        use mortar_wire::longrunning::operation::Result::Response;
        let execute = self.details.as_ref()?.execute.as_ref()?;
        let Some(Response(response)) = &execute.operations.last()?.result else { return None };
        let response = reapi::ExecuteResponse::decode(response.value.as_slice()).ok()?;
        Some((execute.request.clone()?, response.result?))
    }

    /// The request of a GetActionResult, and the result if there was one.
    pub fn look_up(&self) -> Option<(reapi::GetActionResultRequest, Option<reapi::ActionResult>)> {
        let look_up = self.details.as_ref()?.look_up.as_ref()?;
        Some((look_up.request.clone()?, look_up.result.clone()))
    }
}
