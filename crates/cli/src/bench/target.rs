//! The server that is measured: its connections, and what it says it can do.

use super::{Settings, content::Mint};
use anyhow::{Context, Result, ensure};
use mortar_remote::{Endpoint, Options};
use mortar_wire::{bytestream::byte_stream_client::ByteStreamClient, function_to_wire, reapi};
use reapi::{
    action_cache_client::ActionCacheClient, capabilities_client::CapabilitiesClient,
    content_addressable_storage_client::ContentAddressableStorageClient, execution_client::ExecutionClient,
};
use std::time::Duration;
use tonic::{Code, Status, transport::Channel};

/// The largest answer that is taken.
const MAX_MESSAGE: usize = 64 << 20;
/// How long the server may take to show itself.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

pub(super) struct Target {
    pub(super) settings: Settings,
    pub(super) clients: Vec<Client>,
    /// Of the server to which that is written which is read; those above, if there is no other.
    filling: Vec<Client>,
    /// Bytes of content that a batch may hold.
    pub(super) max_batch: usize,
    pub(super) executes: bool,
}

/// The generated clients over one connection.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) cas: ContentAddressableStorageClient<Channel>,
    pub(super) streams: ByteStreamClient<Channel>,
    pub(super) actions: ActionCacheClient<Channel>,
    pub(super) execution: ExecutionClient<Channel>,
}

impl Client {
    fn new(channel: &Channel) -> Self {
        Self {
            cas: ContentAddressableStorageClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            streams: ByteStreamClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            actions: ActionCacheClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            execution: ExecutionClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
        }
    }
}

impl Target {
    /// Connects, each connection with a question of its own, so that no scenario pays for it.
    pub(super) async fn reach(settings: Settings) -> Result<Self> {
        let options = Options { connect_timeout: Duration::from_secs(5), ..Options::default() };
        let filling = match &settings.fill {
            Some(url) => vec![Client::new(&url.parse::<Endpoint>()?.channel(&options))],
            None => Vec::new(),
        };
        let endpoint: Endpoint = settings.url.parse()?;
        let mut clients = Vec::with_capacity(settings.connections);
        let mut capabilities = reapi::ServerCapabilities::default();
        for _ in 0..settings.connections {
            let channel = endpoint.channel(&options);
            capabilities = ask(&channel, &settings).await?;
            clients.push(Client::new(&channel));
        }
        let cache = capabilities.cache_capabilities.unwrap_or_default();
        let function = function_to_wire(settings.function);
        let spoken = &cache.digest_functions;
        ensure!(
            spoken.is_empty() || spoken.contains(&function.into()),
            "the server at `{}` does not speak the digest function {}",
            settings.url,
            function.as_str_name()
        );
        let max_batch = usize::try_from(cache.max_batch_total_size_bytes).ok().filter(|max| *max > 0);
        Ok(Self {
            filling: if filling.is_empty() { clients.clone() } else { filling },
            clients,
            max_batch: max_batch.unwrap_or(usize::MAX).min(4 << 20),
            executes: capabilities.execution_capabilities.is_some_and(|execution| execution.exec_enabled),
            settings,
        })
    }

    /// A client for a worker.
    pub(super) fn client(&self, worker: usize) -> Client {
        self.clients[worker % self.clients.len()].clone()
    }

    /// A client that writes what is to be read.
    pub(super) fn filler(&self, number: usize) -> Client {
        self.filling[number % self.filling.len()].clone()
    }

    /// Makes blobs of this size.
    pub(super) fn mint(&self, size: usize) -> Mint {
        Mint::new(self.settings.function, size, self.settings.content)
    }

    /// The instance as requests name it.
    pub(super) fn instance(&self) -> String {
        self.settings.instance.to_string()
    }

    /// The digest function as requests name it.
    pub(super) fn function(&self) -> i32 {
        function_to_wire(self.settings.function).into()
    }
}

/// What the server can do; nothing in particular, if it does not know the question.
async fn ask(channel: &Channel, settings: &Settings) -> Result<reapi::ServerCapabilities> {
    let request = reapi::GetCapabilitiesRequest { instance_name: settings.instance.to_string() };
    let mut client = CapabilitiesClient::new(channel.clone());
    let answer = tokio::time::timeout(FIRST_ANSWER, client.get_capabilities(request)).await;
    let failed = || format!("asking the server at `{}` for its capabilities", settings.url);
    match answer.with_context(|| format!("{}: no answer within {} s", failed(), FIRST_ANSWER.as_secs()))? {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => Ok(reapi::ServerCapabilities::default()),
        Err(status) => Err(anyhow::anyhow!(describe(&status)).context(failed())),
    }
}

/// A status in words: its code, or the innermost cause if it never came from the server.
pub(super) fn describe(status: &Status) -> String {
    let Some(mut cause) = std::error::Error::source(status) else {
        return format!("{:?}: {}", status.code(), status.message());
    };
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether the server itself could not be reached, so that there is no sense in going on.
pub(super) fn is_gone(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
