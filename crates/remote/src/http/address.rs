//! Where an HTTP cache is: scheme, host and port, the path before `/cas` and `/ac`, and the credentials that the address
//! itself may hold. Those are sent with each request and shown nowhere.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, Uri, uri::Authority};
use mortar_model::{Error, InstanceName, Result};
use std::{fmt, str::FromStr};

/// The address of an HTTP cache: `http://[USER:PASSWORD@]HOST[:PORT][/PATH]`, or `https://…`.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpAddress {
    tls: bool,
    authority: Authority,
    /// Begins with a slash and ends without one, or is empty.
    path: String,
    authorization: Option<HeaderValue>,
}

impl HttpAddress {
    /// Whether the connection is encrypted.
    pub(super) fn is_tls(&self) -> bool {
        self.tls
    }

    /// The name or address of the machine, without the brackets of IPv6.
    pub(super) fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    /// The port that is spoken or goes without saying.
    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// What HTTP/1.1 says in `Host`.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The scheme as HTTP/2 tells it.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Scheme, host and port, for people.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority)
    }

    /// What is sent as `Authorization`.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// The path of something in `space` (`ac` or `cas`). Instances are part of the path, as Bazel's users write them.
    pub(super) fn item(&self, instance: &InstanceName, space: &str, hash: &str) -> String {
        let slash = if instance.as_str().is_empty() { "" } else { "/" };
        format!("{}{slash}{instance}/{space}/{hash}", self.path)
    }
}

impl FromStr for HttpAddress {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let message = format!(
                "cache address `{}` {why}; expected `http://HOST[:PORT][/PATH]` or `https://…`",
                masked(uri)
            );
            Err(Error::invalid("uri", message))
        };
        let Ok(parsed) = uri.parse::<Uri>() else { return refuse("is malformed") };
        let tls = match parsed.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return refuse("is of a kind that is not spoken here"),
        };
        if parsed.query().is_some() {
            return refuse("has a query");
        }
        let whole = parsed.authority().map(Authority::as_str).unwrap_or_default();
        let (user, place) = match whole.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, whole),
        };
        let Ok(authority) = place.parse::<Authority>() else { return refuse("is malformed") };
        if authority.host().is_empty() || authority.as_str().ends_with(':') {
            return refuse("names no host and port");
        }
        let authorization = match user.map(basic) {
            Some(None) => return refuse("holds a user or password that is not percent-encoded properly"),
            Some(value) => value,
            None => None,
        };
        let path = parsed.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, authority, path, authorization })
    }
}

/// The header of basic authentication; none where the escapes are malformed.
fn basic(user: &str) -> Option<HeaderValue> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain = unescaped(name)?;
    plain.push(b':');
    plain.extend(unescaped(password)?);
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(plain)
}

/// An address as it may be shown, whether or not it can be parsed.
fn masked(uri: &str) -> String {
    match (uri.split_once("://"), uri.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://***{}", &uri[at..]),
        (None, Some(at)) => format!("***{}", &uri[at..]),
        (_, None) => uri.to_owned(),
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path)
    }
}

impl fmt::Debug for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.authorization.is_some() { "***@" } else { "" };
        write!(f, "{}://{user}{}{}", self.scheme(), self.authority, self.path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (uri, shown, host, port) in [
            ("http://localhost:8080", "http://localhost:8080", "localhost", 8080),
            ("http://cache", "http://cache", "cache", 80),
            ("https://cache/", "https://cache", "cache", 443),
            ("https://[::1]:1/a/b/", "https://[::1]:1/a/b", "::1", 1),
            ("http://me:s3cret@cache:81/x", "http://cache:81/x", "cache", 81),
        ] {
            let address: HttpAddress = uri.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.host(), address.port()), (shown, host, port));
        }
        for (uri, needle) in [
            ("", "malformed"),
            ("grpc://localhost:80", "not spoken"),
            ("localhost:80", "not spoken"),
            ("http://", "malformed"),
            ("http://cache/?x=s3cret", "query"),
            ("http://me:s3cret%zz@cache/", "percent"),
            ("ftp://me:s3cret@cache/", "not spoken"),
            ("http://me:s3cret@ca che/", "malformed"),
        ] {
            let error = uri.parse::<HttpAddress>().unwrap_err().to_string();
            assert!(error.contains(needle), "{uri}: {error}");
            assert!(uri.contains('?') || !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn credentials_are_sent_and_not_shown() {
        let address: HttpAddress = "https://user%40home:p%3Ass@cache/team".parse().unwrap();
        let header = address.authorization().unwrap();
        assert_eq!(header, &format!("Basic {}", BASE64_STANDARD.encode("user@home:p:ss")));
        let shown = format!("{address} {address:?} {header:?}");
        assert!(!shown.contains("p:ss") && !shown.contains("p%3A") && !shown.contains("Basic"), "{shown}");
        assert!("http://cache".parse::<HttpAddress>().unwrap().authorization().is_none());
    }

    #[test]
    fn paths() {
        let address: HttpAddress = "http://cache/base/".parse().unwrap();
        let instance = InstanceName::parse("team/one").unwrap();
        assert_eq!(address.item(&instance, "cas", "ab"), "/base/team/one/cas/ab");
        assert_eq!(address.item(&InstanceName::default(), "ac", "ab"), "/base/ac/ab");
    }
}
