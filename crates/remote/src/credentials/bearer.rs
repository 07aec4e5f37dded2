//! Tokens as proof: the `Authorization` header, and what token endpoints answer.

use super::{Grant, Proof, Secret};
use mortar_model::{Error, Result};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// Proof by one `Authorization` header.
pub(super) fn authorization(scheme: &str, secret: &Secret, what: &str) -> Result<Proof> {
    let value = secret.header(&format!("{scheme} "), what)?;
    Ok(Proof::Headers([(http::header::AUTHORIZATION, value)].into_iter().collect()))
}

/// The answer of a token endpoint.
#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) access_token: Secret,
    #[serde(default)]
    token_type: String,
    expires_in: Option<u64>,
    pub(super) refresh_token: Option<Secret>,
}

impl Token {
    /// What was answered to a request that was sent at `asked`.
    pub(super) fn grant(&self, asked: SystemTime) -> Result<Grant> {
        if !self.token_type.is_empty() && !self.token_type.eq_ignore_ascii_case("bearer") {
            let message = format!("the token is of type `{}`; expected `Bearer`", self.token_type);
            return Err(Error::invalid("token_type", message));
        }
        let proof = authorization("Bearer", &self.access_token, "the access token")?;
        let expires = self.expires_in.map(|seconds| asked + Duration::from_secs(seconds));
        Ok(Grant { proof, expires, look_again: None })
    }
}
