//! A token that somebody else keeps fresh in a file, as an orchestrator does for its containers.

use super::{Credentials, Grant, LOOK_AGAIN, Secret, bearer::authorization, files};
use async_trait::async_trait;
use http::Uri;
use mortar_model::{Error, Result};
use std::path::PathBuf;

/// `Authorization: Bearer` with what the file holds. It is looked at again every ten seconds, and when a server refuses
/// what it held.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// The token in the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Credentials for TokenFile {
    fn name(&self) -> String {
        format!("the token file `{}`", self.path.display())
    }

    async fn grant(&self, _: &Uri) -> Result<Grant> {
        let text = files::read("the token file", &self.path).await?;
        let token = text.trim();
        if token.is_empty() {
            let message = format!("the token file `{}` is empty", self.path.display());
            return Err(Error::invalid("credentials", message));
        }
        let proof = authorization("Bearer", &Secret::new(token), "the token")?;
        Ok(Grant { proof, expires: None, look_again: Some(LOOK_AGAIN) })
    }
}
