//! Google's application-default credentials: a key file, what `gcloud auth application-default login` left, or the
//! metadata server of the machine, in this order.

use super::{
    Credentials, Grant, Secret,
    bearer::Token,
    fetch::{Fetch, address},
    files, time,
};
use crate::Tls;
use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Uri;
use mortar_model::{Error, Result};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use std::{path::PathBuf, time::SystemTime};

/// Where tokens of users are renewed, for files that do not say.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const METADATA: &str = "metadata.google.internal";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long a signed request for a token is good: the longest that Google takes.
const ASSERTION_LIFE: u64 = 3_600;

/// Application-default credentials.
#[derive(Clone, Debug)]
pub struct Google {
    /// A key file that must be there.
    pub file: Option<PathBuf>,
    /// A file that may be there.
    pub user_file: Option<PathBuf>,
    /// The metadata server, as HOST or HOST:PORT.
    pub metadata: String,
    /// What tokens shall be good for.
    pub scopes: Vec<String>,
    /// How TLS is spoken to Google.
    pub tls: Tls,
}

impl Google {
    /// As Google's own tools look for them: `GOOGLE_APPLICATION_CREDENTIALS`, the file of gcloud, the metadata server
    /// (or `GCE_METADATA_HOST`).
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let gcloud = set("CLOUDSDK_CONFIG").map(PathBuf::from);
        let gcloud = gcloud.or_else(|| files::home().map(|home| home.join(".config/gcloud")));
        let metadata = set("GCE_METADATA_HOST").and_then(|host| host.into_string().ok());
        Self {
            file: set("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
            user_file: gcloud.map(|gcloud| gcloud.join("application_default_credentials.json")),
            metadata: metadata.unwrap_or_else(|| METADATA.into()),
            scopes: vec![SCOPE.into()],
            tls: Tls::default(),
        }
    }

    /// The text of the file that there is, if there is one.
    async fn text(&self) -> Result<Option<String>> {
        if let Some(file) = &self.file {
            return files::read("the key file", file).await.map(Some);
        }
        let Some(file) = &self.user_file else { return Ok(None) };
        match files::read("the credentials file", file).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if files::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn of_machine(&self, fetch: &Fetch) -> Result<Grant> {
        let uri = format!(
            "http://{}/computeMetadata/v1/instance/service-accounts/default/token?scopes={}",
            self.metadata,
            super::fetch::escaped(&self.scopes.join(","))
        );
        let asked = SystemTime::now();
        let answer =
            fetch.get(&address("the metadata server", &uri)?, &[("metadata-flavor", "Google")]).await;
        let answer = answer.map_err(|error| {
            let message = "there is no key file, no login of gcloud, and no metadata server of Google";
            Error::new(error.kind().clone()).with_source(Error::internal(message))
        })?;
        answer.json::<Token>()?.grant(asked)
    }
}

/// What such files hold.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum KeyFile {
    ServiceAccount {
        client_email: String,
        private_key: Secret,
        private_key_id: Option<String>,
        token_uri: String,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: Secret,
        refresh_token: Secret,
        token_uri: Option<String>,
    },
    #[serde(other)]
    Other,
}

#[async_trait]
impl Credentials for Google {
    fn name(&self) -> String {
        match &self.file {
            Some(file) => format!("Google's key file `{}`", file.display()),
            None => "Google's application-default credentials".into(),
        }
    }

    async fn grant(&self, _: &Uri) -> Result<Grant> {
        let fetch = Fetch::new(self.tls.clone());
        let Some(text) = self.text().await? else { return self.of_machine(&fetch).await };
        let account: KeyFile = serde_json::from_str(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::invalid("credentials", format!("the file is wrong at line {line}, column {column}"))
        })?;
        let asked = SystemTime::now();
        let answer = match account {
            KeyFile::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
                let claims = serde_json::json!({
                    "iss": client_email,
                    "scope": self.scopes.join(" "),
                    "aud": token_uri,
                    "iat": time::unix(asked),
                    "exp": time::unix(asked) + ASSERTION_LIFE,
                });
                let assertion = signed(&private_key, private_key_id.as_deref(), &claims)?;
                let form = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                    ("assertion", assertion.expose()),
                ];
                fetch.post(&address("token_uri", &token_uri)?, &[], &form).await?
            }
            KeyFile::AuthorizedUser { client_id, client_secret, refresh_token, token_uri } => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", &client_id),
                    ("client_secret", client_secret.expose()),
                    ("refresh_token", refresh_token.expose()),
                ];
                let uri = token_uri.as_deref().unwrap_or(TOKEN_URI);
                fetch.post(&address("token_uri", uri)?, &[], &form).await?
            }
            KeyFile::Other => {
                let message = "the file is of a type that is not known here; known are service_account and authorized_user";
                return Err(Error::invalid("type", message));
            }
        };
        answer.json::<Token>()?.grant(asked)
    }
}

/// A JSON web token, signed with RS256.
fn signed(key: &Secret, key_id: Option<&str>, claims: &serde_json::Value) -> Result<Secret> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::invalid("private_key", format!("the private key cannot be used: {why}"))
    };
    let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|error| wrong(&error))?;
    let pair = match &der {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(wrong(&"it is no RSA key")),
    };
    let pair = pair.map_err(|error| wrong(&error))?;
    let mut header = serde_json::json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = key_id {
        header["kid"] = id.into();
    }
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .map_err(|_| wrong(&"signing failed"))?;
    Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
}
