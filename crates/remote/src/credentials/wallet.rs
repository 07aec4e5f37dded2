//! The sources that there are, and for which hosts.

use super::{Credentials, attach::Attached, kept::Kept};
use http::{HeaderMap, Method, Uri, uri::Authority};
use mortar_model::Result;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

/// A source and the hosts it is for.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `host`, `host:port`, `*.example.com` for all hosts below that one; all hosts where there are none.
    pub hosts: Vec<String>,
    /// Where proof comes from.
    pub source: Arc<dyn Credentials>,
}

/// Sources by host, and what they gave so far. All sources of a host are asked, and of two headers of one name the one
/// of the source that stands first is sent. Cheap to clone; clones share what is kept.
#[derive(Clone)]
pub struct Wallet(Arc<Inner>);

struct Inner {
    rules: Vec<Rule>,
    /// By number of the rule, scheme and authority.
    kept: Mutex<HashMap<(usize, String), Arc<Kept>>>,
}

impl Wallet {
    /// A wallet of these sources.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(Arc::new(Inner { rules, kept: Mutex::default() }))
    }

    /// A wallet of one source, for all that it is used for.
    pub fn of(source: impl Credentials) -> Self {
        Self::new(vec![Rule { hosts: Vec::new(), source: Arc::new(source) }])
    }

    /// The headers of a request, and when they are worth nothing any more.
    pub async fn headers(&self, method: &Method, uri: &Uri) -> Result<(HeaderMap, Option<SystemTime>)> {
        let carried = self.attached(uri).proofs().await?;
        let headers = carried.headers(method, uri)?;
        Ok((headers, carried.expires()))
    }

    /// What is kept for a server. The path of `uri` does not matter.
    pub(crate) fn attached(&self, uri: &Uri) -> Attached {
        let origin = origin(uri);
        let mut kept = self.0.kept.lock();
        let of_rule = |(number, rule): (usize, &Rule)| {
            let entry = kept.entry((number, origin.to_string()));
            entry.or_insert_with(|| Kept::new(rule.source.clone(), origin.clone())).clone()
        };
        let rules = self.0.rules.iter().enumerate();
        let rules = rules.filter(|(_, rule)| rule.is_for(&origin));
        Attached::new(rules.map(of_rule).collect())
    }
}

impl Rule {
    fn is_for(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else { return self.hosts.is_empty() };
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| matches(pattern, authority))
    }
}

fn matches(pattern: &str, authority: &Authority) -> bool {
    let host = authority.host();
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            host.len() > domain.len() + 1
                && host.is_char_boundary(host.len() - domain.len())
                && host[host.len() - domain.len()..].eq_ignore_ascii_case(domain)
                && host.as_bytes()[host.len() - domain.len() - 1] == b'.'
        }
        None => pattern.eq_ignore_ascii_case(host) || pattern.eq_ignore_ascii_case(authority.as_str()),
    }
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Uri {
    let scheme = uri.scheme_str().unwrap_or("https");
    let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
    let origin = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
    origin.unwrap_or_else(|_| uri.clone())
}

impl fmt::Debug for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wallet").field(&self.0.rules).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (pattern, authority, is_meant) in [
            ("cache.example.com", "cache.example.com:443", true),
            ("Cache.Example.com", "cache.example.com", true),
            ("cache.example.com:443", "cache.example.com:443", true),
            ("cache.example.com:444", "cache.example.com:443", false),
            ("example.com", "cache.example.com", false),
            ("*.example.com", "cache.example.com:1", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("127.0.0.1", "127.0.0.1:80", true),
            ("[::1]", "[::1]:80", true),
        ] {
            let authority: Authority = authority.parse().unwrap();
            assert_eq!(matches(pattern, &authority), is_meant, "{pattern} {authority}");
        }
    }
}
