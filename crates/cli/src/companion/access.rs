//! How the companion is let in by its servers: credentials and TLS, the same for all of them.

use crate::credential_helper;
use mortar_remote::{Tls, credentials::Wallet};
use std::path::PathBuf;

/// Flags for that.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Access {
    /// Who we are to servers: the sources of credentials, as for `mortar credential-helper` [default:
    /// ~/.config/mortar/credentials.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "MORTAR_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// Certificates (PEM) that may vouch for servers, instead of those that the system trusts.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Our certificate (PEM), for servers that ask for one.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// The name that certificates of servers must be for, if it is not that of the address.
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl Access {
    pub(super) fn tls(&self) -> Tls {
        Tls {
            ca: self.tls_ca.clone(),
            certificate: self.tls_certificate.clone(),
            key: self.tls_key.clone(),
            server_name: self.tls_server_name.clone(),
        }
    }

    /// One wallet for all servers; its sources know for which of them they are. None where there are no sources.
    pub(super) fn credentials(&self) -> anyhow::Result<Option<Wallet>> {
        let sources = match &self.credentials {
            Some(path) => Some(credential_helper::read(path)?),
            None => credential_helper::usual()?,
        };
        Ok(sources.map(|sources| sources.wallet(None)).transpose()?)
    }
}
