//! OAuth2's device flow: a person lets this machine in by a code that they enter in any browser, once; from then on the
//! refresh token does.

use super::{
    Credentials, Grant, Secret,
    bearer::Token,
    fetch::{Answer, Fetch},
    files,
    oauth::{Endpoints, Provider},
};
use crate::Tls;
use async_trait::async_trait;
use http::Uri;
use mortar_model::{Error, Kind, Result};
use parking_lot::Mutex;
use serde::Deserialize;
use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Shows an invitation to a person.
pub type Prompt = Arc<dyn Fn(&Invitation) + Send + Sync>;

/// What a person is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The page to open.
    pub page: String,
    /// The code to enter there.
    pub code: String,
}

/// The device flow.
pub struct DeviceFlow {
    provider: Provider,
    client_id: String,
    client_secret: Option<Secret>,
    scopes: Vec<String>,
    /// Where the refresh token is kept beyond this process; nowhere by default.
    file: Option<PathBuf>,
    prompt: Prompt,
    tls: Tls,
    refresh_token: Mutex<Option<Secret>>,
}

impl DeviceFlow {
    /// For the client `client_id` of `provider`. A person is invited by a line of the log.
    pub fn new(provider: Provider, client_id: impl Into<String>, scopes: Vec<String>) -> Self {
        Self {
            provider,
            client_id: client_id.into(),
            client_secret: None,
            scopes,
            file: None,
            prompt: Arc::new(|Invitation { page, code }| {
                tracing::warn!("to let Mortar in, open {page} and enter the code {code}");
            }),
            tls: Tls::default(),
            refresh_token: Mutex::new(None),
        }
    }

    /// With a secret, which some providers give to clients that can keep none.
    #[must_use]
    pub fn with_secret(mut self, secret: Option<Secret>) -> Self {
        self.client_secret = secret;
        self
    }

    /// Keeps the refresh token in this file, which only its owner may read, so that nobody is asked at the next start.
    #[must_use]
    pub fn kept_in(mut self, file: Option<PathBuf>) -> Self {
        self.file = file;
        self
    }

    /// Invites people in another way.
    #[must_use]
    pub fn inviting(mut self, prompt: Prompt) -> Self {
        self.prompt = prompt;
        self
    }

    /// Speaks TLS to the provider like this.
    #[must_use]
    pub fn over(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    async fn refresh_token(&self) -> Result<Option<Secret>> {
        if let Some(token) = self.refresh_token.lock().clone() {
            return Ok(Some(token));
        }
        let Some(file) = &self.file else { return Ok(None) };
        match files::read("the refresh token", file).await {
            Ok(text) => Ok(Some(Secret::new(text.trim())).filter(|token| !token.expose().is_empty())),
            Err(error) if files::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a refresh token; none forgets the one that there is.
    async fn keep(&self, token: Option<Secret>) {
        self.refresh_token.lock().clone_from(&token);
        let Some(file) = self.file.clone() else { return };
        let written = tokio::task::spawn_blocking(move || match token {
            Some(token) => write_private(&file, token.expose()).map_err(|error| (file, error)),
            None => std::fs::remove_file(&file).map_err(|error| (file, error)),
        });
        match written.await {
            Ok(Err((file, error))) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("keeping the refresh token in `{}` failed: {error}", file.display());
            }
            _ => {}
        }
    }

    /// A token for the refresh token that there is; none if there is none or it is worth nothing any more.
    async fn refresh(&self, fetch: &Fetch, endpoints: &Endpoints) -> Result<Option<Grant>> {
        let Some(refresh) = self.refresh_token().await? else { return Ok(None) };
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
        let asked = SystemTime::now();
        let answer = self.ask(fetch, &endpoints.token, &form).await?;
        if answer.refusal().is_some_and(|refusal| refusal.error == "invalid_grant") {
            self.keep(None).await;
            return Ok(None);
        }
        self.take(answer, asked).await.map(Some)
    }

    /// Takes what a token endpoint gave.
    async fn take(&self, answer: Answer, asked: SystemTime) -> Result<Grant> {
        let token: Token = answer.json()?;
        if token.refresh_token.is_some() {
            self.keep(token.refresh_token.clone()).await;
        }
        token.grant(asked)
    }

    async fn ask(&self, fetch: &Fetch, uri: &Uri, form: &[(&str, &str)]) -> Result<Answer> {
        let mut all = vec![("client_id", self.client_id.as_str())];
        all.extend(self.client_secret.as_ref().map(|secret| ("client_secret", secret.expose())));
        all.extend_from_slice(form);
        fetch.post(uri, &[], &all).await
    }

    /// Asks a person, and the provider again and again until they have answered.
    async fn invite(&self, fetch: &Fetch, endpoints: &Endpoints) -> Result<Grant> {
        let Some(device) = &endpoints.device else {
            let message = format!("the provider `{}` has no device flow", self.provider.place());
            return Err(Error::invalid("provider", message));
        };
        let scopes = self.scopes.join(" ");
        let started: Started = self.ask(fetch, device, &[("scope", &scopes)]).await?.json()?;
        let page = started.verification_uri_complete.unwrap_or(started.verification_uri);
        (self.prompt)(&Invitation { page, code: started.user_code });
        let mut interval = Duration::from_secs(started.interval);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(started.expires_in);
        let form = [("grant_type", DEVICE_CODE), ("device_code", started.device_code.expose())];
        while tokio::time::Instant::now() + interval < deadline {
            tokio::time::sleep(interval).await;
            let asked = SystemTime::now();
            let answer = match self.ask(fetch, &endpoints.token, &form).await {
                Ok(answer) => answer,
                // The network may be away while the person types.
                Err(error) if matches!(error.kind(), Kind::Unavailable { .. }) => continue,
                Err(error) => return Err(error),
            };
            match answer.refusal().map(|refusal| refusal.error).as_deref() {
                Some("authorization_pending") => {}
                Some("slow_down") => interval += Duration::from_secs(5),
                _ => return self.take(answer, asked).await,
            }
        }
        let message = "nobody has entered the code in time".to_owned();
        Err(Error::new(Kind::Unauthenticated { message }))
    }
}

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[derive(Deserialize)]
struct Started {
    device_code: Secret,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    #[serde(default = "usual_interval")]
    interval: u64,
}

/// What RFC 8628 says where the provider says nothing.
fn usual_interval() -> u64 {
    5
}

#[async_trait]
impl Credentials for DeviceFlow {
    fn name(&self) -> String {
        format!("the OAuth provider `{}` (device flow)", self.provider.place())
    }

    async fn grant(&self, _: &Uri) -> Result<Grant> {
        let fetch = Fetch::new(self.tls.clone());
        let endpoints = self.provider.endpoints(&fetch).await?;
        match self.refresh(&fetch, &endpoints).await? {
            Some(grant) => Ok(grant),
            None => self.invite(&fetch, &endpoints).await,
        }
    }
}

/// Replaces a file by one that only its owner may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let beside = path.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

impl fmt::Debug for DeviceFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, client_id, scopes, file, .. } = self;
        f.debug_struct("DeviceFlow")
            .field("provider", provider)
            .field("client_id", client_id)
            .field("scopes", scopes)
            .field("file", file)
            .finish_non_exhaustive()
    }
}
