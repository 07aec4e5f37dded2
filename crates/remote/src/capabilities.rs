//! What a server says it can do, and the limits of a batch that follow.

use crate::{Inner, Remote, retry::Backoff};
use mortar_model::{Context, DigestFunction, Kind, Result};
use mortar_wire::{digest_function, reapi};

/// Content in one batch where the server names no limit: gRPC's own limit on messages, less room for digests.
const USUAL_BATCH: u64 = (4 << 20) - (128 << 10);

/// What a server can do, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Bytes of content that one batch may hold; none if the server sets no limit of its own.
    pub max_batch_total_size: Option<u64>,
    /// Digest functions of its cache that are known here.
    pub digest_functions: Vec<DigestFunction>,
    /// Whether clients may write to the action cache.
    pub action_cache_updates: bool,
    /// Whether it executes actions.
    pub execution: bool,
    /// Lowest and highest version of the protocol, as `2.0`.
    pub api_versions: (String, String),
}

impl Remote {
    /// Asks the server what it can do.
    pub async fn capabilities(&self, context: &Context) -> Result<Capabilities> {
        let mut backoff = Backoff::new(&self.0.options.retry, context);
        loop {
            match self.0.get_capabilities(context).await {
                Ok(answer) => return Ok(from_wire(answer)),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }
}

impl Inner {
    pub(crate) async fn get_capabilities(&self, context: &Context) -> Result<reapi::ServerCapabilities> {
        let lease = self.pool.lease();
        let mut client = reapi::capabilities_client::CapabilitiesClient::new(lease.channel());
        let request = reapi::GetCapabilitiesRequest { instance_name: context.instance.to_string() };
        self.unary(context, lease, client.get_capabilities(self.request(context, request))).await
    }

    /// Bytes of content that one batch may hold. The server is asked once; one that has no answer gets what is usual.
    pub(crate) async fn batch_limit(&self, context: &Context) -> Result<u64> {
        let limit = self.batch_limit.get_or_try_init(|| async {
            match self.get_capabilities(context).await {
                Ok(answer) => {
                    Ok(from_wire(answer).max_batch_total_size.map_or(USUAL_BATCH, |max| max.min(USUAL_BATCH)))
                }
                Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => Ok(USUAL_BATCH),
                Err(error) => Err(error),
            }
        });
        limit.await.copied()
    }
}

fn from_wire(capabilities: reapi::ServerCapabilities) -> Capabilities {
    let cache = capabilities.cache_capabilities.unwrap_or_default();
    let known = |value: &i32| match *value {
        0 => None,
        value => digest_function(value).ok(),
    };
    let version = |version: Option<mortar_wire::semver::SemVer>| {
        version.map(|version| format!("{}.{}", version.major, version.minor)).unwrap_or_default()
    };
    Capabilities {
        max_batch_total_size: u64::try_from(cache.max_batch_total_size_bytes).ok().filter(|max| *max > 0),
        digest_functions: cache.digest_functions.iter().filter_map(known).collect(),
        action_cache_updates: cache
            .action_cache_update_capabilities
            .is_some_and(|updates| updates.update_enabled),
        execution: capabilities.execution_capabilities.is_some_and(|execution| execution.exec_enabled),
        api_versions: (version(capabilities.low_api_version), version(capabilities.high_api_version)),
    }
}
