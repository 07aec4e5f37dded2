//! Capabilities: what is served, and nothing that is not.

use crate::{call, limits};
use mortar_model::{ChunkingParameters, DigestFunction};
use mortar_wire::{
    chunking_to_wire, function_to_wire,
    reapi::{
        self, ActionCacheUpdateCapabilities, CacheCapabilities, ExecutionCapabilities,
        GetCapabilitiesRequest, PriorityCapabilities, ServerCapabilities, capabilities_server::Capabilities,
        priority_capabilities, symlink_absolute_path_strategy,
    },
    semver::SemVer,
};
use tonic::{Request, Response, Status};

/// Answers GetCapabilities.
pub(crate) struct Service {
    executes: bool,
    chunking: Option<ChunkingParameters>,
}

impl Service {
    /// `chunking` is how blobs are cut, if they are.
    pub(crate) fn new(executes: bool, chunking: Option<ChunkingParameters>) -> Self {
        Self { executes, chunking }
    }
}

#[tonic::async_trait]
impl Capabilities for Service {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        call::context(request.metadata(), &request.get_ref().instance_name)?;
        Ok(Response::new(ServerCapabilities {
            cache_capabilities: Some(cache(self.chunking)),
            execution_capabilities: self.executes.then(execution),
            deprecated_api_version: None,
            low_api_version: Some(version(2, 0)),
            // 2.12 and 2.13 are about chunks.
            high_api_version: Some(version(2, if self.chunking.is_some() { 13 } else { 11 })),
        }))
    }
}

fn cache(chunking: Option<ChunkingParameters>) -> CacheCapabilities {
    let mut cache = CacheCapabilities {
        digest_functions: functions(),
        action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities { update_enabled: true }),
        max_batch_total_size_bytes: limits::MAX_BATCH.cast_signed(),
        symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Disallowed.into(),
        ..CacheCapabilities::default()
    };
    if let Some(parameters) = chunking {
        chunking_to_wire(parameters, &mut cache);
    }
    cache
}

fn execution() -> ExecutionCapabilities {
    let priorities = priority_capabilities::PriorityRange {
        min_priority: *limits::PRIORITIES.start(),
        max_priority: *limits::PRIORITIES.end(),
    };
    ExecutionCapabilities {
        digest_function: reapi::digest_function::Value::Sha256.into(),
        exec_enabled: true,
        execution_priority_capabilities: Some(PriorityCapabilities { priorities: vec![priorities] }),
        digest_functions: functions(),
        ..ExecutionCapabilities::default()
    }
}

fn functions() -> Vec<i32> {
    DigestFunction::ALL.map(|function| function_to_wire(function).into()).to_vec()
}

fn version(major: i32, minor: i32) -> SemVer {
    SemVer { major, minor, ..SemVer::default() }
}
