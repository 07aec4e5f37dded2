//! OAuth2: where a provider's endpoints are, and the client-credentials flow.

use super::{
    Credentials, Grant, Secret,
    bearer::Token,
    fetch::{Fetch, address},
};
use crate::Tls;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use mortar_model::{Error, Result};
use serde::Deserialize;
use std::time::SystemTime;

/// Where a provider's endpoints are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Found by OpenID Connect's discovery below this address.
    Issuer(String),
    /// Named one by one.
    Endpoints {
        /// Where tokens are given.
        token: String,
        /// Where devices are authorised; only the device flow needs it.
        device: Option<String>,
    },
}

/// The endpoints of a provider.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    pub(super) token: Uri,
    pub(super) device: Option<Uri>,
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    token_endpoint: String,
    device_authorization_endpoint: Option<String>,
}

impl Provider {
    pub(super) async fn endpoints(&self, fetch: &Fetch) -> Result<Endpoints> {
        let (token, device) = match self {
            Self::Endpoints { token, device } => (token.clone(), device.clone()),
            Self::Issuer(issuer) => {
                let base = issuer.trim_end_matches('/');
                let uri = address("the issuer", &format!("{base}/.well-known/openid-configuration"))?;
                let found: Discovered = fetch.get(&uri, &[]).await?.json()?;
                if found.issuer.trim_end_matches('/') != base {
                    let message =
                        format!("`{uri}` speaks for issuer `{}`; expected `{issuer}`", found.issuer);
                    return Err(Error::invalid("issuer", message));
                }
                (found.token_endpoint, found.device_authorization_endpoint)
            }
        };
        let device = device.map(|device| address("the device endpoint", &device)).transpose()?;
        Ok(Endpoints { token: address("the token endpoint", &token)?, device })
    }

    pub(super) fn place(&self) -> &str {
        match self {
            Self::Issuer(issuer) => issuer,
            Self::Endpoints { token, .. } => token,
        }
    }
}

/// The client-credentials flow: a programme proves itself by a secret and gets tokens.
#[derive(Debug)]
pub struct ClientCredentials {
    /// Who gives tokens.
    pub provider: Provider,
    /// The name of the client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// What the tokens shall be good for; empty for what the provider gives by itself.
    pub scopes: Vec<String>,
    /// For whom they shall be, where the provider asks for that.
    pub audience: Option<String>,
    /// How TLS is spoken to the provider.
    pub tls: Tls,
}

#[async_trait]
impl Credentials for ClientCredentials {
    fn name(&self) -> String {
        format!("the OAuth provider `{}` (client credentials)", self.provider.place())
    }

    async fn grant(&self, _: &Uri) -> Result<Grant> {
        let fetch = Fetch::new(self.tls.clone());
        let endpoints = self.provider.endpoints(&fetch).await?;
        let scopes = self.scopes.join(" ");
        let mut form = vec![("grant_type", "client_credentials")];
        if !scopes.is_empty() {
            form.push(("scope", &scopes));
        }
        form.extend(self.audience.as_deref().map(|audience| ("audience", audience)));
        // Both parts are escaped before they are joined: RFC 6749, section 2.3.1.
        let escaped = super::fetch::escaped;
        let pair = format!("{}:{}", escaped(&self.client_id), escaped(self.client_secret.expose()));
        let basic = format!("Basic {}", STANDARD.encode(pair));
        let asked = SystemTime::now();
        let answer = fetch.post(&endpoints.token, &[("authorization", &basic)], &form).await?;
        answer.json::<Token>()?.grant(asked)
    }
}
