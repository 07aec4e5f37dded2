//! Asking a server that runs, over its port: the connection, how long an answer may take, and what it means when there is
//! none.

use anyhow::{Context, anyhow};
use mortar_remote::{Endpoint, Options};
use std::time::Duration;
use tonic::{Code, Response, Status, transport::Channel};

/// How long the server may take to be reached.
const REACHED: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const ANSWERED: Duration = Duration::from_secs(10);

/// A server by its address.
pub struct Server {
    url: String,
    channel: Channel,
}

impl Server {
    /// Nothing is sent yet.
    pub fn at(url: &str) -> anyhow::Result<Self> {
        let endpoint: Endpoint = url.parse()?;
        let options = Options { connect_timeout: REACHED, ..Options::default() };
        Ok(Self { url: url.to_owned(), channel: endpoint.channel(&options) })
    }

    /// For the generated clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The answer to one call.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        let answer = tokio::time::timeout(ANSWERED, call).await;
        let late =
            || format!("the server at `{}` has not answered within {} s", self.url, ANSWERED.as_secs());
        answer.with_context(late)?.map(Response::into_inner).map_err(|status| self.failed(&status))
    }

    fn failed(&self, status: &Status) -> anyhow::Error {
        let url = &self.url;
        if let Some(mut cause) = std::error::Error::source(status) {
            while let Some(source) = cause.source() {
                cause = source;
            }
            return anyhow!("the server at `{url}` cannot be reached: {cause}");
        }
        match status.code() {
            Code::Unimplemented => anyhow!(
                "the server at `{url}` does not know what it is asked for: it is no Mortar, or another version of it"
            ),
            _ => anyhow!("{}", status.message()),
        }
    }
}
