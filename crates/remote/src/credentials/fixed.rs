//! Headers that never change.

use super::{Credentials, Grant, Proof, Secret};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, Uri};
use mortar_model::{Error, Result};

/// The same headers for every request.
#[derive(Debug)]
pub struct StaticHeaders {
    headers: HeaderMap,
}

impl StaticHeaders {
    /// These headers, by name and value.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, &'a Secret)>) -> Result<Self> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let parsed = name.parse::<HeaderName>();
            let parsed =
                parsed.map_err(|_| Error::invalid("headers", format!("`{name}` is no name of a header")))?;
            all.append(parsed, value.header("", &format!("the header `{name}`"))?);
        }
        Ok(Self { headers: all })
    }
}

#[async_trait]
impl Credentials for StaticHeaders {
    fn name(&self) -> String {
        "fixed headers".into()
    }

    async fn grant(&self, _: &Uri) -> Result<Grant> {
        Ok(Grant { proof: Proof::Headers(self.headers.clone()), expires: None, look_again: None })
    }
}
