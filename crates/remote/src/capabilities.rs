//! What a server says it can do, and what follows for the way in which blobs travel.

use crate::{Inner, Remote, retry::Backoff};
use mortar_model::{Context, Digest, DigestFunction, Kind, Result};
use mortar_wire::{digest_function, inputs_follow, lease, reapi};
use std::time::Duration;
use tonic::Response;

/// Content in one batch where the server names no limit: gRPC's own limit on messages, less room for digests.
const USUAL_BATCH: u64 = (4 << 20) - (128 << 10);

/// Blobs below this are hardly ever shorter as zstd.
pub(crate) const SHORTEST_COMPRESSED: u64 = 256;
pub(crate) const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

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
    /// Whether blobs can be read and written as zstd streams.
    pub zstd_streams: bool,
    /// Whether blobs can be written as zstd in batches.
    pub zstd_batches: bool,
    /// How long the server keeps what it calls present, if it is one of ours and says so.
    pub lease: Option<Duration>,
    /// How long the server waits at most for inputs that follow an execution, if it is one of ours and does so.
    pub inputs_follow: Option<Duration>,
    /// Lowest and highest version of the protocol, as `2.0`.
    pub api_versions: (String, String),
}

/// How blobs travel to and from this server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Bytes of content that one batch may hold.
    pub(crate) batch_limit: u64,
    /// Streams are zstd, both ways.
    pub(crate) zstd_streams: bool,
    /// What is written in batches is zstd where that is shorter.
    pub(crate) zstd_batches: bool,
    /// It waits for inputs that follow an execution.
    pub(crate) inputs_follow: bool,
}

impl Remote {
    /// Asks the server what it can do. What blobs and executions want to know of that is known then.
    pub async fn capabilities(&self, context: &Context) -> Result<Capabilities> {
        let mut backoff = Backoff::new(&self.0.options.retry, context);
        loop {
            match self.0.get_capabilities(context).await {
                Ok(answer) => {
                    let told = from_wire(answer);
                    // The first answer stays, as it does where a call asks by itself.
                    let _ = self.0.terms.set(self.0.terms_of(&told));
                    return Ok(told);
                }
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    /// Whether this server waits for inputs that follow an execution. It is asked once, and not again by executions.
    pub async fn takes_inputs_later(&self, context: &Context) -> Result<bool> {
        self.0.settled_terms(context).await.map(|terms| terms.inputs_follow)
    }

    /// The same as it was told before; none if nothing was.
    pub fn is_known_to_take_inputs_later(&self) -> Option<bool> {
        self.0.terms.get().map(|terms| terms.inputs_follow)
    }
}

impl Inner {
    pub(crate) async fn get_capabilities(
        &self,
        context: &Context,
    ) -> Result<Response<reapi::ServerCapabilities>> {
        let lease = self.pool.lease();
        let mut client = reapi::capabilities_client::CapabilitiesClient::new(lease.channel());
        let request = reapi::GetCapabilitiesRequest { instance_name: context.instance.to_string() };
        let call = client.get_capabilities(self.request(context, request));
        self.timely(context, Some(self.options.call_timeout), call).await
    }

    /// The terms of this server, which is asked once; one that has no answer gets what is usual.
    pub(crate) async fn terms(&self, context: &Context) -> Result<Terms> {
        let terms = self.terms.get_or_try_init(|| async {
            match self.get_capabilities(context).await {
                Ok(answer) => Ok(self.terms_of(&from_wire(answer))),
                Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => {
                    Ok(self.terms_of(&Capabilities::default()))
                }
                Err(error) => Err(error),
            }
        });
        terms.await.copied()
    }

    fn terms_of(&self, capabilities: &Capabilities) -> Terms {
        Terms {
            batch_limit: capabilities.max_batch_total_size.map_or(USUAL_BATCH, |max| max.min(USUAL_BATCH)),
            zstd_streams: self.options.compression && capabilities.zstd_streams,
            zstd_batches: self.options.compression && capabilities.zstd_batches,
            inputs_follow: capabilities.inputs_follow.is_some(),
        }
    }

    /// Whether this blob is streamed as zstd.
    pub(crate) async fn streams_zstd(&self, context: &Context, digest: Digest) -> Result<bool> {
        if !self.options.compression || digest.size() < SHORTEST_COMPRESSED {
            return Ok(false);
        }
        self.settled_terms(context).await.map(|terms| terms.zstd_streams)
    }

    /// The terms, however often it takes to ask for them.
    async fn settled_terms(&self, context: &Context) -> Result<Terms> {
        let mut backoff = Backoff::new(&self.options.retry, context);
        loop {
            match self.terms(context).await {
                Ok(terms) => return Ok(terms),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }
}

fn from_wire(answer: Response<reapi::ServerCapabilities>) -> Capabilities {
    let lease = lease::from_headers(answer.metadata());
    let inputs_follow = inputs_follow::offer_from_headers(answer.metadata());
    let capabilities = answer.into_inner();
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
        zstd_streams: cache.supported_compressors.contains(&ZSTD),
        zstd_batches: cache.supported_batch_update_compressors.contains(&ZSTD),
        lease,
        inputs_follow,
        api_versions: (version(capabilities.low_api_version), version(capabilities.high_api_version)),
    }
}
