//! Sources of credentials as a configuration names them.

use super::{
    ClientCredentials, Credentials, DeviceFlow, Google, Helper, Netrc, Prompt, Provider, Rule, Secret,
    StaticHeaders, TokenFile, Wallet,
    aws::{Aws, Chain},
};
use crate::Tls;
use mortar_model::{Error, Result};
use serde::{Deserialize, Deserializer, de};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// All sources, in order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One entry each.
    #[serde(default)]
    pub credentials: Vec<Entry>,
}

/// A source and the hosts it is for.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// `host`, `host:port` or `*.example.com`. A secret is sent nowhere else.
    pub hosts: Vec<String>,
    /// The source.
    #[serde(flatten)]
    pub source: Source,
}

/// A source.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// The same headers for every request.
    Headers {
        /// By name.
        headers: BTreeMap<String, Secret>,
    },
    /// Names and passwords in a `.netrc`.
    Netrc {
        /// The user's own by default.
        file: Option<PathBuf>,
    },
    /// A bearer token in a file.
    TokenFile {
        /// Which one.
        file: PathBuf,
    },
    /// One of Bazel's credential helpers.
    Helper {
        /// By path, or by name in `PATH`.
        program: PathBuf,
        /// How long it may take; 10 s by default.
        #[serde(default, deserialize_with = "duration")]
        timeout: Option<Duration>,
    },
    /// OAuth2's client-credentials flow.
    OauthClient {
        /// Whose discovery document tells the endpoints.
        issuer: Option<String>,
        /// The token endpoint, where there is no such document.
        token_uri: Option<String>,
        /// The name of the client.
        client_id: String,
        /// Its secret, as text.
        client_secret: Option<Secret>,
        /// Its secret, in a file.
        client_secret_file: Option<PathBuf>,
        /// What tokens shall be good for.
        #[serde(default)]
        scopes: Vec<String>,
        /// For whom they shall be.
        audience: Option<String>,
        /// How TLS is spoken to the provider.
        #[serde(default)]
        tls: Tls,
    },
    /// OAuth2's device flow.
    OauthDevice {
        /// Whose discovery document tells the endpoints.
        issuer: Option<String>,
        /// The token endpoint, where there is no such document.
        token_uri: Option<String>,
        /// The endpoint that gives codes, where there is no such document.
        device_uri: Option<String>,
        /// The name of the client.
        client_id: String,
        /// Its secret, as text, where the provider gives one to such clients.
        client_secret: Option<Secret>,
        /// What tokens shall be good for; without `offline_access` most providers give no refresh token.
        #[serde(default)]
        scopes: Vec<String>,
        /// Where the refresh token is kept, so that nobody is asked again.
        file: Option<PathBuf>,
        /// How TLS is spoken to the provider.
        #[serde(default)]
        tls: Tls,
    },
    /// Google's application-default credentials.
    Google {
        /// A key file; the usual places by default.
        file: Option<PathBuf>,
        /// What tokens shall be good for; `cloud-platform` by default.
        scopes: Option<Vec<String>>,
    },
    /// Signatures with the keys of AWS's default chain.
    Aws {
        /// Such as `eu-central-1`.
        region: String,
        /// Such as `s3`.
        service: String,
    },
}

impl Config {
    /// A wallet of all sources. `prompt` invites people to let this machine in; without it, a line of the log does.
    pub fn wallet(self, prompt: Option<&Prompt>) -> Result<Wallet> {
        let rule = |(number, Entry { hosts, source }): (usize, Entry)| {
            if hosts.is_empty() {
                let message = format!("entry {} of `credentials` is for no hosts", number + 1);
                return Err(Error::invalid("hosts", message));
            }
            Ok(Rule { hosts, source: source.open(prompt)? })
        };
        Ok(Wallet::new(self.credentials.into_iter().enumerate().map(rule).collect::<Result<_>>()?))
    }
}

impl Source {
    /// The source itself.
    pub fn open(self, prompt: Option<&Prompt>) -> Result<Arc<dyn Credentials>> {
        Ok(match self {
            Self::Headers { headers } => {
                let headers = headers.iter().map(|(name, value)| (name.as_str(), value));
                Arc::new(StaticHeaders::new(headers)?)
            }
            Self::Netrc { file: Some(file) } => Arc::new(Netrc::new(file)),
            Self::Netrc { file: None } => Arc::new(Netrc::of_user()?),
            Self::TokenFile { file } => Arc::new(TokenFile::new(file)),
            Self::Helper { program, timeout } => {
                Arc::new(Helper::new(program, timeout.unwrap_or(Helper::USUAL_TIMEOUT)))
            }
            Self::OauthClient {
                issuer,
                token_uri,
                client_id,
                client_secret,
                client_secret_file,
                scopes,
                audience,
                tls,
            } => Arc::new(ClientCredentials {
                provider: provider(issuer, token_uri, None)?,
                client_id,
                client_secret: secret(client_secret, client_secret_file)?,
                scopes,
                audience,
                tls,
            }),
            Self::OauthDevice {
                issuer,
                token_uri,
                device_uri,
                client_id,
                client_secret,
                scopes,
                file,
                tls,
            } => {
                let flow = DeviceFlow::new(provider(issuer, token_uri, device_uri)?, client_id, scopes);
                let flow = flow.with_secret(client_secret).kept_in(file).over(tls);
                Arc::new(match prompt {
                    Some(prompt) => flow.inviting(prompt.clone()),
                    None => flow,
                })
            }
            Self::Google { file, scopes } => {
                let mut google = Google::from_environment();
                google.file = file.or(google.file);
                google.scopes = scopes.unwrap_or(google.scopes);
                Arc::new(google)
            }
            Self::Aws { region, service } => {
                Arc::new(Aws { chain: Chain::from_environment(), region, service })
            }
        })
    }
}

fn provider(issuer: Option<String>, token: Option<String>, device: Option<String>) -> Result<Provider> {
    match (issuer, token) {
        (Some(issuer), None) => Ok(Provider::Issuer(issuer)),
        (None, Some(token)) => Ok(Provider::Endpoints { token, device }),
        (Some(_), Some(_)) => {
            Err(Error::invalid("issuer", "either `issuer` or `token-uri` is named, not both"))
        }
        (None, None) => Err(Error::invalid("issuer", "`issuer` or `token-uri` is needed")),
    }
}

fn secret(text: Option<Secret>, file: Option<PathBuf>) -> Result<Secret> {
    match (text, file) {
        (Some(text), None) => Ok(text),
        (None, Some(file)) => {
            let read = std::fs::read_to_string(&file);
            let read = read.map_err(|error| {
                Error::io(format!("reading the client's secret `{}`", file.display()), error)
            })?;
            Ok(Secret::new(read.trim()))
        }
        _ => {
            Err(Error::invalid("client-secret", "one of `client-secret` and `client-secret-file` is needed"))
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        _ => 0,
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match millis.filter(|millis| *millis > 0) {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(de::Error::custom(format!("`{text}` is no duration; expected one such as 10s"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(entry: &str) -> Result<Arc<dyn Credentials>, String> {
        let text = format!(r#"{{"credentials": [{{"hosts": ["a"], {entry}}}]}}"#);
        let config: Config = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let entry = config.credentials.into_iter().next().unwrap();
        entry.source.open(None).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_understood() {
        for (entry, name) in [
            (r#""kind": "headers", "headers": {"x-key": "k"}"#, "fixed headers"),
            (r#""kind": "netrc", "file": "/n""#, "the netrc file `/n`"),
            (r#""kind": "token-file", "file": "/t""#, "the token file `/t`"),
            (r#""kind": "helper", "program": "h", "timeout": "5s""#, "the credential helper `h`"),
            (
                r#""kind": "oauth-client", "issuer": "https://i", "client-id": "c", "client-secret": "s""#,
                "the OAuth provider `https://i` (client credentials)",
            ),
            (
                r#""kind": "oauth-device", "token-uri": "https://t", "device-uri": "https://d", "client-id": "c""#,
                "the OAuth provider `https://t` (device flow)",
            ),
            (r#""kind": "google", "file": "/g""#, "Google's key file `/g`"),
            (r#""kind": "aws", "region": "r", "service": "s3""#, "the default chain of AWS"),
        ] {
            assert_eq!(parse(entry).unwrap().name(), name);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_without_secrets() {
        for (entry, needle) in [
            (r#""kind": "magic""#, "unknown variant `magic`"),
            (r#""kind": "netrc", "fiel": "/n""#, "unknown field `fiel`"),
            (r#""kind": "helper", "program": "h", "timeout": "5""#, "`5` is no duration"),
            (r#""kind": "headers", "headers": {"a b": "hush"}"#, "`a b` is no name"),
            (r#""kind": "headers", "headers": {"a": "hush\n"}"#, "the header `a` holds characters"),
            (
                r#""kind": "oauth-client", "client-id": "c", "client-secret": "hush""#,
                "`issuer` or `token-uri`",
            ),
            (r#""kind": "oauth-client", "issuer": "i", "client-id": "c""#, "one of `client-secret`"),
        ] {
            let error = parse(entry).map(|_| ()).unwrap_err();
            assert!(error.contains(needle) && !error.contains("hush"), "{error}");
        }
        let nowhere =
            Config { credentials: vec![Entry { hosts: vec![], source: Source::Netrc { file: None } }] };
        assert!(nowhere.wallet(None).unwrap_err().to_string().contains("for no hosts"));
    }
}
