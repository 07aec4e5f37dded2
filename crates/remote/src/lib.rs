//! The ports over gRPC: a server elsewhere as [`BlobStore`](mortar_model::BlobStore),
//! [`ActionCache`](mortar_model::ActionCache) and [`Executor`](mortar_model::Executor).
//!
//! [`Endpoint::connect`] makes a [`Remote`] without a word to the server: connections are made when the first call needs
//! them and made anew after they break. What is broken on the way is repeated or resumed, within the bounds of
//! [`Options::retry`]; what arrives is checked against its digest before the last of it is passed on.
//!
//! Calls carry the credentials that [`Options::credentials`] gives them, over TLS as [`Options::tls`] says. The same ports over
//! Bazel's HTTP cache are [`HttpUpstream`]. [`breaker`] judges an upstream and stands before its ports.
//!
//! Left to others: keeping what was fetched (`mortar-store`).

mod ahead;
mod batch;
mod blobs;
pub mod breaker;
mod call;
mod capabilities;
mod chunks;
mod compression;
pub mod credentials;
mod endpoint;
mod execution;
mod gathered;
mod http;
mod pool;
mod read;
mod results;
mod retry;
mod tls;
mod uploads;
mod write;

pub use self::http::{HttpAddress, HttpOptions, HttpUpstream, Protocol};
pub use capabilities::Capabilities;
use capabilities::Terms;
pub use chunks::RemoteChunks;
use credentials::Authorized;
pub use endpoint::{Endpoint, Options};
pub use execution::Inline;
pub use gathered::GatheredReads;
pub use retry::Retry;
pub use tls::Tls;
pub use uploads::Uploads;

use mortar_wire::{bytestream::byte_stream_client::ByteStreamClient, reapi};
use pool::{Lease, Pool};
use std::sync::{Arc, atomic::AtomicBool};
use tokio::sync::OnceCell;
use write::Unfinished;

/// The largest message that is accepted; an action result with much inline is the largest there is.
const MAX_MESSAGE: usize = 64 << 20;

/// A server elsewhere. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    options: Options,
    pool: Pool,
    /// What is done because the server said so, once it was asked.
    terms: OnceCell<Terms>,
    /// The server does not know what is asked for next.
    foresees_nothing: AtomicBool,
    /// Uploads that may be taken up again.
    unfinished: Unfinished,
}

impl Remote {
    fn new(endpoint: Endpoint, options: Options) -> Self {
        let pool = Pool::new(&endpoint, &options);
        Self(Arc::new(Inner {
            endpoint,
            options,
            pool,
            terms: OnceCell::new(),
            foresees_nothing: AtomicBool::new(false),
            unfinished: Unfinished::default(),
        }))
    }

    /// Which server this is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// One of the connections, for protocols that have no port, such as the worker session.
    pub fn channel(&self) -> Authorized {
        self.0.pool.lease().channel()
    }
}

/// Clients of the single services, each over the connection with the fewest calls.
impl Inner {
    fn byte_stream(&self) -> (ByteStreamClient<Authorized>, Lease) {
        let lease = self.pool.lease();
        (ByteStreamClient::new(lease.channel()).max_decoding_message_size(MAX_MESSAGE), lease)
    }

    fn cas(
        &self,
    ) -> (reapi::content_addressable_storage_client::ContentAddressableStorageClient<Authorized>, Lease) {
        let lease = self.pool.lease();
        let client =
            reapi::content_addressable_storage_client::ContentAddressableStorageClient::new(lease.channel());
        (client.max_decoding_message_size(MAX_MESSAGE), lease)
    }

    fn action_cache(&self) -> (reapi::action_cache_client::ActionCacheClient<Authorized>, Lease) {
        let lease = self.pool.lease();
        let client = reapi::action_cache_client::ActionCacheClient::new(lease.channel());
        (client.max_decoding_message_size(MAX_MESSAGE), lease)
    }

    fn execution(&self) -> (reapi::execution_client::ExecutionClient<Authorized>, Lease) {
        let lease = self.pool.lease();
        let client = reapi::execution_client::ExecutionClient::new(lease.channel());
        (client.max_decoding_message_size(MAX_MESSAGE), lease)
    }
}
