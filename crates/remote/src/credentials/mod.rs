//! Who we are to a server: where proof of that comes from, how long it is kept, and how calls carry it.
//!
//! A [`Credentials`] is one source; each has a file of its own. It is asked rarely: `kept` keeps what it gave, in memory
//! only, fetches it anew before it expires, once for all who wait, and forgets it when a server refuses it. A [`Wallet`]
//! is the sources that there are, by host. `attach` puts the proof on every gRPC call; HTTP clients ask
//! [`Wallet::headers`].
//!
//! Secrets are [`Secret`]s and headers marked as sensitive, neither of which can be printed. Left to others: which sources
//! there are (the configuration, [`Rule`]s), and the certificates of a connection (`tls`).

mod attach;
pub mod aws;
mod bearer;
mod config;
mod device;
mod fetch;
mod files;
mod fixed;
mod google;
mod helper;
mod kept;
mod netrc;
mod oauth;
mod replay;
mod secret;
mod time;
mod token_file;
mod wallet;

pub use attach::Authorized;
pub(crate) use attach::{Attached, ONCE_MORE};
pub use config::{Config, Entry, Source};
pub use device::{DeviceFlow, Invitation, Prompt};
pub use fixed::StaticHeaders;
pub use google::Google;
pub use helper::{Helper, Question, answer};
pub use netrc::Netrc;
pub use oauth::{ClientCredentials, Provider};
pub use secret::Secret;
pub use token_file::TokenFile;
pub use wallet::{Rule, Wallet};

use async_trait::async_trait;
use http::{HeaderMap, Method, Uri};
use mortar_model::Result;
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Where proof of who we are comes from. Asked once for each host and again when what it gave gets old or is refused;
/// keeps nothing for later by itself.
#[async_trait]
pub trait Credentials: fmt::Debug + Send + Sync + 'static {
    /// Which source this is, for messages: kind and place, no secret.
    fn name(&self) -> String;

    /// Proof for this server: scheme, host and port of `uri` are meant, never a path.
    async fn grant(&self, uri: &Uri) -> Result<Grant>;
}

/// What a source gave.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What requests carry.
    pub proof: Proof,
    /// When it is worth nothing any more, if ever.
    pub expires: Option<SystemTime>,
    /// When the source is to be looked at again although this may still be good: a file may have changed.
    pub look_again: Option<Duration>,
}

/// What requests carry.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// These headers, the same on each request; all of them sensitive. None where the source knows nothing of the host.
    Headers(HeaderMap),
    /// A signature over each request.
    Signature(aws::Signer),
}

impl Grant {
    /// Nothing, and it is not worth asking again for a while.
    pub fn nothing() -> Self {
        Self { proof: Proof::Headers(HeaderMap::new()), expires: None, look_again: Some(LOOK_AGAIN) }
    }
}

impl Proof {
    /// The headers of a request with an empty or unsigned body.
    pub fn headers(&self, method: &Method, uri: &Uri) -> Result<HeaderMap> {
        match self {
            Self::Headers(headers) => Ok(headers.clone()),
            Self::Signature(signer) => signer.headers(method, uri, SystemTime::now()),
        }
    }
}

/// How soon a file that is not said to expire is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
