//! Capabilities: what is served, and nothing that is not.

use crate::{Offer, Offers, Operations, Ports, call, limits};
use mortar_model::{ChunkingParameters, Context, DigestFunction, Result as Outcome};
use mortar_wire::{
    chunking_to_wire, function_to_wire, inputs_follow, lease,
    reapi::{
        self, ActionCacheUpdateCapabilities, CacheCapabilities, ExecutionCapabilities,
        GetCapabilitiesRequest, PriorityCapabilities, ServerCapabilities, capabilities_server::Capabilities,
        compressor, priority_capabilities, symlink_absolute_path_strategy,
    },
    semver::SemVer,
};
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status};

/// Answers GetCapabilities.
pub(crate) struct Service {
    executes: bool,
    chunking: Option<ChunkingParameters>,
    compresses: bool,
    lease: Option<Duration>,
    longest_following: Option<Duration>,
    offers: Option<Arc<dyn Offers>>,
}

impl Service {
    pub(crate) fn new(ports: &Ports, operations: Option<&Operations>) -> Self {
        let (executes, compresses) = (ports.executor.is_some(), ports.encoded.is_some());
        let chunking = ports.chunks.as_ref().map(|chunks| chunks.parameters());
        let longest_following = operations.and_then(Operations::longest_following);
        let offers = ports.offers.clone();
        Self { executes, chunking, compresses, lease: ports.lease, longest_following, offers }
    }

    async fn offer(&self, context: &Context) -> Outcome<Offer> {
        let all = Offer { executes: self.executes, updates: true, functions: DigestFunction::ALL.to_vec() };
        let Some(offers) = &self.offers else { return Ok(all) };
        let told = offers.offer(context).await?;
        let functions = all.functions.into_iter().filter(|known| told.functions.contains(known));
        Ok(Offer {
            executes: all.executes && told.executes,
            updates: told.updates,
            functions: functions.collect(),
        })
    }

    fn cache(&self, offer: &Offer) -> CacheCapabilities {
        let compressors: Vec<i32> =
            self.compresses.then_some(compressor::Value::Zstd.into()).into_iter().collect();
        let mut cache = CacheCapabilities {
            digest_functions: functions(offer),
            action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                update_enabled: offer.updates,
            }),
            max_batch_total_size_bytes: limits::MAX_BATCH.cast_signed(),
            symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Disallowed.into(),
            supported_compressors: compressors.clone(),
            supported_batch_update_compressors: compressors,
            ..CacheCapabilities::default()
        };
        if let Some(parameters) = self.chunking {
            chunking_to_wire(parameters, &mut cache);
        }
        cache
    }
}

#[tonic::async_trait]
impl Capabilities for Service {
    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let context = call::context(request.metadata(), &request.get_ref().instance_name)?;
        let offer = self.offer(&context).await.map_err(call::refuse)?;
        let mut response = Response::new(ServerCapabilities {
            cache_capabilities: Some(self.cache(&offer)),
            execution_capabilities: offer.executes.then(|| execution(&offer)),
            deprecated_api_version: None,
            low_api_version: Some(version(2, 0)),
            // 2.12 and 2.13 are about chunks.
            high_api_version: Some(version(2, if self.chunking.is_some() { 13 } else { 11 })),
        });
        if let Some(lease) = self.lease {
            lease::to_headers(lease, response.metadata_mut());
        }
        if let Some(longest) = self.longest_following {
            inputs_follow::offer_to_headers(longest, response.metadata_mut());
        }
        Ok(response)
    }
}

fn execution(offer: &Offer) -> ExecutionCapabilities {
    let priorities = priority_capabilities::PriorityRange {
        min_priority: *limits::PRIORITIES.start(),
        max_priority: *limits::PRIORITIES.end(),
    };
    ExecutionCapabilities {
        digest_function: reapi::digest_function::Value::Sha256.into(),
        exec_enabled: true,
        execution_priority_capabilities: Some(PriorityCapabilities { priorities: vec![priorities] }),
        digest_functions: functions(offer),
        ..ExecutionCapabilities::default()
    }
}

fn functions(offer: &Offer) -> Vec<i32> {
    offer.functions.iter().map(|function| function_to_wire(*function).into()).collect()
}

fn version(major: i32, minor: i32) -> SemVer {
    SemVer { major, minor, ..SemVer::default() }
}
