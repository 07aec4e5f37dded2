//! How an upstream is talked to: over gRPC, or as an HTTP cache, which keeps blobs and results and does nothing else.

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use mortar_model::{
    ActionCache, AheadBounds, BlobStore, Coming, Context, Digest, DigestFunction, Error, ExecuteRequest,
    Foresight, Kind, Outcome, Progress, Range, Result, Whence,
};
use mortar_remote::{
    Capabilities, Endpoint, GatheredReads, HttpUpstream, Inline, Options, Protocol, Remote, breaker::Probe,
};
use std::sync::Arc;

pub(crate) enum Link {
    Grpc(Remote),
    Http(HttpUpstream),
}

/// Whether this is the address of an HTTP cache.
pub(crate) fn is_http(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

impl Link {
    /// Nothing is sent yet. `protocol` is what an HTTP cache spoke the last time.
    pub fn to(uri: &str, options: &Options, protocol: Option<Protocol>) -> Result<Self> {
        Ok(match is_http(uri) {
            true => Self::Http(HttpUpstream::connect(uri, options, protocol)?),
            false => Self::Grpc(Endpoint::connect(uri, options.clone())?),
        })
    }

    /// Where it leads, without secrets.
    pub fn uri(&self) -> String {
        match self {
            Self::Grpc(remote) => remote.endpoint().to_string(),
            Self::Http(cache) => cache.address().to_string(),
        }
    }

    pub fn blobs(&self) -> Arc<dyn BlobStore> {
        match self {
            Self::Grpc(remote) => Arc::new(GatheredReads::new(remote.clone())),
            Self::Http(cache) => Arc::new(cache.clone()),
        }
    }

    pub fn actions(&self) -> Arc<dyn ActionCache> {
        match self {
            Self::Grpc(remote) => Arc::new(remote.clone()),
            Self::Http(cache) => Arc::new(cache.clone()),
        }
    }

    pub fn probe(&self) -> Arc<dyn Probe> {
        match self {
            Self::Grpc(remote) => Arc::new(remote.clone()),
            Self::Http(cache) => Arc::new(cache.clone()),
        }
    }

    /// The version of HTTP that a cache turned out to speak.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Grpc(_) => None,
            Self::Http(cache) => cache.protocol(),
        }
    }

    /// Whether many blobs can be asked for and sent in one call.
    pub fn takes_batches(&self) -> bool {
        matches!(self, Self::Grpc(_))
    }

    /// Writes a blob that is in `store`; over gRPC, an upload that broke is taken up where it was.
    pub async fn write_from(
        &self,
        context: &Context,
        digest: Digest,
        store: &Arc<dyn BlobStore>,
    ) -> Result<()> {
        match self {
            Self::Grpc(remote) => remote.write_from(context, digest, store).await,
            Self::Http(cache) => {
                let blob = store.read(&Context::glance(), digest, Range::ALL).await?;
                cache.write(context, digest, blob).await
            }
        }
    }

    pub async fn write_batch(&self, context: &Context, blobs: &[(Digest, Bytes)]) -> Result<Vec<Result<()>>> {
        match self {
            Self::Grpc(remote) => remote.write_batch(context, blobs).await,
            Self::Http(_) => Err(unknown("batches of blobs")),
        }
    }

    pub async fn follow(
        &self,
        context: &Context,
        whence: Whence,
        bounds: AheadBounds,
    ) -> Result<BoxStream<'static, Result<Coming>>> {
        match self {
            Self::Grpc(remote) => remote.follow(context, whence, bounds).await,
            Self::Http(_) => Ok(stream::empty().boxed()),
        }
    }

    pub async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        inline: &Inline,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        match self {
            Self::Grpc(remote) => remote.execute_inline(context, request, inline, progress).await,
            Self::Http(_) => Err(unknown("executions")),
        }
    }

    /// Whether it waits for inputs that follow an execution.
    pub async fn takes_inputs_later(&self, context: &Context) -> Result<bool> {
        match self {
            Self::Grpc(remote) => remote.takes_inputs_later(context).await,
            Self::Http(_) => Ok(false),
        }
    }

    /// The same as it was told before; none if it has to be asked.
    pub fn is_known_to_take_inputs_later(&self) -> Option<bool> {
        match self {
            Self::Grpc(remote) => remote.is_known_to_take_inputs_later(),
            Self::Http(_) => Some(false),
        }
    }

    /// What it offers. A cache cannot tell: it is asked whether it is there, and takes what is put until it refuses that.
    pub async fn capabilities(&self, context: &Context) -> Result<Capabilities> {
        match self {
            Self::Grpc(remote) => remote.capabilities(context).await,
            Self::Http(cache) => {
                cache.probe().await?;
                Ok(Capabilities {
                    digest_functions: vec![DigestFunction::Sha256],
                    action_cache_updates: true,
                    ..Capabilities::default()
                })
            }
        }
    }
}

fn unknown(what: &str) -> Error {
    Error::new(Kind::Unimplemented {
        message: format!("the upstream is an HTTP cache, which knows no {what}"),
    })
}
