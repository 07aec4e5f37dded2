//! The default chain: environment, web identity, profile, container, instance; the first that is set up gives the keys.
//!
//! Not here: profiles that log in by SSO or take another role. `credential_process` runs whatever knows those.

use super::{
    super::{
        Secret,
        fetch::{Fetch, address, escaped},
        files, time,
    },
    sign::Keys,
};
use crate::Tls;
use http::Uri;
use mortar_model::{Error, Kind, Result};
use serde::Deserialize;
use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    time::{Duration, SystemTime},
};

/// How long a `credential_process` may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon keys of a file are read again.
const FILE_LIFE: Duration = Duration::from_secs(300);

/// Where keys are looked for.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The environment: names that begin with `AWS_`.
    pub environment: HashMap<String, Secret>,
    /// `credentials` and `config`.
    pub profile_files: Vec<PathBuf>,
    /// Where containers ask, for a path that the environment names.
    pub container: String,
    /// Where instances ask.
    pub instance: String,
    /// How TLS is spoken.
    pub tls: Tls,
}

type Found = (Keys, Option<SystemTime>);

impl Chain {
    /// As AWS's own tools look for them.
    pub fn from_environment() -> Self {
        let environment = std::env::vars().filter(|(name, _)| name.starts_with("AWS_"));
        let environment: HashMap<String, Secret> =
            environment.map(|(name, value)| (name, Secret::new(value))).collect();
        let file = |variable: &str, name: &str| {
            let named = environment.get(variable).map(|path| PathBuf::from(path.expose()));
            named.or_else(|| files::home().map(|home| home.join(".aws").join(name)))
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let config = file("AWS_CONFIG_FILE", "config");
        let endpoint =
            environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").map(|uri| uri.expose().to_owned());
        Self {
            profile_files: credentials.into_iter().chain(config).collect(),
            container: "http://169.254.170.2".into(),
            instance: endpoint.unwrap_or_else(|| "http://169.254.169.254".into()),
            tls: Tls::default(),
            environment,
        }
    }

    fn set(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }

    /// Keys, and when they expire.
    pub(super) async fn keys(&self) -> Result<Found> {
        if let Some(keys) = self.of_environment() {
            return Ok((keys, None));
        }
        let fetch = Fetch::new(self.tls.clone());
        if let Some(found) = self.of_web_identity(&fetch).await? {
            return Ok(found);
        }
        if let Some(found) = self.of_profile().await? {
            return Ok(found);
        }
        if let Some(found) = self.of_container(&fetch).await? {
            return Ok(found);
        }
        if self.set("AWS_EC2_METADATA_DISABLED").is_some_and(|set| set.eq_ignore_ascii_case("true")) {
            let message = "no keys in the environment, in a profile or of a container, and the instance is not to be asked";
            return Err(Error::new(Kind::Unauthenticated { message: message.into() }));
        }
        self.of_instance(&fetch).await
    }

    fn of_environment(&self) -> Option<Keys> {
        let (id, secret) = (self.set("AWS_ACCESS_KEY_ID")?, self.set("AWS_SECRET_ACCESS_KEY")?);
        let session_token = self.set("AWS_SESSION_TOKEN").map(Secret::new);
        Some(Keys { id: id.into(), secret: Secret::new(secret), session_token })
    }

    /// A token in a file is exchanged for the keys of a role, as in Kubernetes.
    async fn of_web_identity(&self, fetch: &Fetch) -> Result<Option<Found>> {
        let (Some(file), Some(role)) = (self.set("AWS_WEB_IDENTITY_TOKEN_FILE"), self.set("AWS_ROLE_ARN"))
        else {
            return Ok(None);
        };
        let token = Secret::new(files::read("the web identity token", file.as_ref()).await?.trim());
        let region = self.set("AWS_REGION").or_else(|| self.set("AWS_DEFAULT_REGION"));
        let endpoint = match (self.set("AWS_ENDPOINT_URL_STS"), region) {
            (Some(endpoint), _) => endpoint.to_owned(),
            (None, Some(region)) => format!("https://sts.{region}.amazonaws.com/"),
            (None, None) => "https://sts.amazonaws.com/".to_owned(),
        };
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", self.set("AWS_ROLE_SESSION_NAME").unwrap_or("mortar")),
            ("WebIdentityToken", token.expose()),
        ];
        let answer = fetch.post(&address("the STS endpoint", &endpoint)?, &[], &form).await?;
        let text = String::from_utf8_lossy(answer.ok()?);
        let part = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            rest.split_once(&format!("</{tag}>")).map(|(part, _)| part.trim().to_owned())
        };
        let found = part("AccessKeyId").zip(part("SecretAccessKey")).map(|(id, secret)| Keys {
            id,
            secret: Secret::new(secret),
            session_token: part("SessionToken").map(Secret::new),
        });
        let keys = found.ok_or_else(|| Error::internal(format!("`{endpoint}` gave no keys")))?;
        Ok(Some((keys, part("Expiration").and_then(|text| time::parse(&text)))))
    }

    async fn of_profile(&self) -> Result<Option<Found>> {
        let named = self.set("AWS_PROFILE").or_else(|| self.set("AWS_DEFAULT_PROFILE"));
        let profile = named.unwrap_or("default");
        let mut values = HashMap::new();
        for file in &self.profile_files {
            match files::read("the profile file", file).await {
                // What stands in the first file counts.
                Ok(text) => section(&text, profile).into_iter().for_each(|(key, value)| {
                    values.entry(key).or_insert(value);
                }),
                Err(error) if files::is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some((id, secret)) = values.get("aws_access_key_id").zip(values.get("aws_secret_access_key")) {
            let session_token = values.get("aws_session_token").cloned();
            let keys = Keys { id: id.expose().into(), secret: secret.clone(), session_token };
            return Ok(Some((keys, Some(SystemTime::now() + FILE_LIFE))));
        }
        if let Some(command) = values.get("credential_process") {
            return of_process(command).await.map(Some);
        }
        if named.is_some() {
            let message = format!(
                "the profile `{profile}` has neither keys nor a `credential_process`; others are not known here"
            );
            return Err(Error::new(Kind::Unauthenticated { message }));
        }
        Ok(None)
    }

    async fn of_container(&self, fetch: &Fetch) -> Result<Option<Found>> {
        let relative = self.set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let relative = relative.map(|path| format!("{}{path}", self.container));
        let full = || self.set("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned);
        let Some(uri) = relative.or_else(full) else { return Ok(None) };
        let token = match self.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => Some(files::read("the container's token", file.as_ref()).await?),
            None => self.set("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
        };
        let headers: Vec<_> =
            token.as_deref().map(|token| ("authorization", token.trim())).into_iter().collect();
        let answer = fetch.get(&address("the container's credentials", &uri)?, &headers).await?;
        answer.json::<Document>()?.found().map(Some)
    }

    /// By the second version of the metadata service, which wants a token first.
    async fn of_instance(&self, fetch: &Fetch) -> Result<Found> {
        let at = |path: &str| -> Result<Uri> {
            address(
                "the instance's metadata",
                &format!("{}/latest/{path}", self.instance.trim_end_matches('/')),
            )
        };
        let session =
            fetch.put(&at("api/token")?, &[("x-aws-ec2-metadata-token-ttl-seconds", "21600")]).await?;
        let session = String::from_utf8_lossy(session.ok()?).trim().to_owned();
        let headers = [("x-aws-ec2-metadata-token", session.as_str())];
        let roles = fetch.get(&at("meta-data/iam/security-credentials/")?, &headers).await?;
        let roles = String::from_utf8_lossy(roles.ok()?).into_owned();
        let role = roles.lines().next().unwrap_or_default().trim();
        let path = format!("meta-data/iam/security-credentials/{}", escaped(role));
        fetch.get(&at(&path)?, &headers).await?.json::<Document>()?.found()
    }
}

/// Keys as containers, instances and processes give them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: String,
    secret_access_key: Secret,
    #[serde(alias = "SessionToken")]
    token: Option<Secret>,
    expiration: Option<String>,
}

impl Document {
    fn found(self) -> Result<Found> {
        let expires = match &self.expiration {
            None => None,
            Some(text) => Some(time::parse(text).ok_or_else(|| {
                Error::invalid(
                    "expiration",
                    format!("the keys expire at `{text}`, which is no RFC 3339 time"),
                )
            })?),
        };
        let keys = Keys { id: self.access_key_id, secret: self.secret_access_key, session_token: self.token };
        Ok((keys, expires))
    }
}

async fn of_process(command: &Secret) -> Result<Found> {
    let failed = |error| Error::io("running the profile's credential_process", error);
    let child = tokio::process::Command::new("sh")
        .args(["-c", command.expose()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let Ok(output) = tokio::time::timeout(PATIENCE, child.wait_with_output()).await else {
        let message = format!("the profile's credential_process has not ended within {PATIENCE:?}");
        return Err(Error::new(Kind::DeadlineExceeded { message }));
    };
    let output = output.map_err(failed)?;
    if !output.status.success() {
        let message = format!("the profile's credential_process ended with {}", output.status);
        return Err(Error::new(Kind::Unauthenticated { message }));
    }
    let document: Document = serde_json::from_slice(&output.stdout).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error::internal(format!("credential_process: its answer is wrong at line {line}, column {column}"))
    })?;
    document.found()
}

/// The values of a profile, which `config` calls `profile NAME` and `credentials` just `NAME`.
fn section(text: &str, profile: &str) -> HashMap<String, Secret> {
    let mut values = HashMap::new();
    let mut is_ours = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let name = name.trim();
            is_ours = name == profile || name.strip_prefix("profile").map(str::trim) == Some(profile);
        } else if let Some((key, value)) = line.split_once('=').filter(|_| is_ours) {
            values.insert(key.trim().to_lowercase(), Secret::new(value.trim()));
        }
    }
    values
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn profiles() {
        let text = "[default]\naws_access_key_id = ONE\n# no\n[profile other]\nAWS_ACCESS_KEY_ID=TWO\nregion = x\n[third]\n";
        let id = |profile| section(text, profile).get("aws_access_key_id").map(|id| id.expose().to_owned());
        assert_eq!((id("default"), id("other"), id("third")), (Some("ONE".into()), Some("TWO".into()), None));
    }

    #[tokio::test]
    async fn the_first_of_the_chain_counts() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = directory.path().join("credentials");
        let process = r#"echo '{"Version":1,"AccessKeyId":"P","SecretAccessKey":"S","SessionToken":"T","Expiration":"2030-01-01T00:00:00Z"}'"#;
        let text = format!(
            "[default]\naws_access_key_id=D\naws_secret_access_key=s\n[run]\ncredential_process={process}\n"
        );
        std::fs::write(&credentials, text).unwrap();
        let chain = |set: &[(&str, &str)]| Chain {
            environment: set.iter().map(|(name, value)| ((*name).into(), Secret::new(*value))).collect(),
            profile_files: vec![credentials.clone(), directory.path().join("absent")],
            container: String::new(),
            instance: String::new(),
            tls: Tls::default(),
        };
        let environment = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let (keys, expires) = chain(&environment).keys().await.unwrap();
        assert_eq!((keys.id.as_str(), expires), ("E", None));
        let (keys, expires) = chain(&[]).keys().await.unwrap();
        assert!(keys.id == "D" && expires.is_some(), "read again after a while");
        let (keys, expires) = chain(&[("AWS_PROFILE", "run")]).keys().await.unwrap();
        assert_eq!((keys.id.as_str(), keys.session_token), ("P", Some(Secret::new("T"))));
        assert_eq!(expires, time::parse("2030-01-01T00:00:00Z"));
        let error = chain(&[("AWS_PROFILE", "none")]).keys().await.unwrap_err();
        assert!(error.to_string().contains("`none`"), "{error}");
    }
}
