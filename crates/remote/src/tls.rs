//! Connections to servers, with and without TLS: which certificates are trusted, and which one we show.

use http::Uri;
use mortar_model::{Error, Kind, Result};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How TLS is spoken to a server. The files are read anew for each connection, so that certificates may be renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates (PEM) of those who may vouch for the server, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate and those that vouch for it (PEM), for servers that ask who we are. Needs `key`.
    pub certificate: Option<PathBuf>,
    /// The private key of `certificate` (PEM).
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must be for, if it is not that of the address.
    pub server_name: Option<String>,
}

/// What is spoken on a connection.
pub(crate) type Protocol = &'static [u8];
pub(crate) const HTTP_1: Protocol = b"http/1.1";
pub(crate) const HTTP_2: Protocol = b"h2";

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Tls {
    /// What rustls needs; fails where a file is not as it must be.
    pub(crate) fn config(&self, protocol: Protocol) -> Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::internal(format!("TLS cannot be set up: {error}")))?;
        let roots = match &self.ca {
            Some(path) => Arc::new(roots_in(path)?),
            None => roots_of_system()?,
        };
        let builder = builder.with_root_certificates(roots);
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| wrong(key, "no private key", &error))?;
                let identity = builder.with_client_auth_cert(chain, private);
                identity.map_err(|error| {
                    let fits = format!("a key that fits the certificate `{}`", certificate.display());
                    wrong(key, &format!("not {fits}"), &error)
                })?
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(_), None) => {
                return Err(Error::invalid("key", "a certificate of ours needs its private key"));
            }
            (None, Some(_)) => {
                return Err(Error::invalid("certificate", "a private key needs its certificate"));
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

/// A connection to the host of `uri`, with TLS where its scheme asks for it.
pub(crate) async fn dial(uri: &Uri, tls: &Tls, protocol: Protocol) -> Result<Box<dyn Stream>> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let failed = |action: &str, error| Error::io(format!("{action} `{host}:{port}`"), error);
    let connecting = |error: std::io::Error| {
        let message = format!("connecting to `{host}:{port}`: {error}");
        Error::new(Kind::Unavailable { message, retry_after: None })
    };
    let stream = TcpStream::connect((bare, port)).await.map_err(connecting)?;
    stream.set_nodelay(true).map_err(|error| failed("connecting to", error))?;
    if !secure {
        return Ok(Box::new(stream));
    }
    let name = tls.server_name.as_deref().unwrap_or(bare);
    let name = ServerName::try_from(name.to_owned());
    let name =
        name.map_err(|_| Error::invalid("server_name", "it is no name that a certificate can have"))?;
    let tls = tls.clone();
    let config = tokio::task::spawn_blocking(move || tls.config(protocol)).await;
    let config = config.map_err(|_| Error::internal("setting up TLS was broken off"))??;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connecting.map_err(|error| {
        let message = format!("TLS with `{host}:{port}` failed: {error}");
        Error::new(Kind::Unavailable { message, retry_after: None })
    })?;
    Ok(Box::new(stream))
}

/// Whether this address stays within the machine.
pub(crate) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn roots_in(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(path, "no certificate that can vouch", &error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| wrong(path, "no certificate", &error))?;
    if all.is_empty() {
        return Err(Error::invalid("certificate", format!("`{}` holds no certificate", path.display())));
    }
    Ok(all)
}

fn wrong(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::invalid("tls", format!("`{}` holds {what} (PEM): {error}", path.display()))
}

/// What the system trusts, read once.
fn roots_of_system() -> Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let message = "the system has no certificates to trust, so no server can be checked";
        return Err(Error::new(Kind::FailedPrecondition { message: message.into() })
            .hint("name a file of certificates, or install the system's (`ca-certificates` on Debian)"));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}
