//! Text that must not be seen.

use http::HeaderValue;
use mortar_model::{Error, Result};
use serde::Deserialize;
use std::fmt;

/// A secret. It cannot be printed; who needs its text asks for it by name.
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` out of sight.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Not for messages.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value of a header: `prefix` and the secret. `what` names the secret where it cannot be one.
    pub(crate) fn header(&self, prefix: &str, what: &str) -> Result<HeaderValue> {
        let value = HeaderValue::from_str(&format!("{prefix}{}", self.0));
        let mut value = value.map_err(|_| {
            Error::invalid("credentials", format!("{what} holds characters that no header can"))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(empty)" } else { "***" })
    }
}
