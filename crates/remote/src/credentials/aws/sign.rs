//! Signature Version 4 over the headers of a request.

use super::super::{Secret, fetch::escaped, time};
use aws_lc_rs::{digest, hmac};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use mortar_model::{Error, Result};
use std::{fmt::Write, time::SystemTime};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// In place of the body's hash.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Keys of an identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys {
    /// Its public part.
    pub id: String,
    /// The key.
    pub secret: Secret,
    /// What temporary keys come with.
    pub session_token: Option<Secret>,
}

/// Signs requests for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Signer {
    /// With these keys.
    pub keys: Keys,
    /// Where the service is.
    pub region: String,
    /// Which service it is.
    pub service: String,
}

impl Signer {
    /// The headers that a request of `method` to `uri` needs at `now`.
    pub fn headers(&self, method: &Method, uri: &Uri, now: SystemTime) -> Result<HeaderMap> {
        let date = time::compact(now);
        let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut signed = vec![("host", host), ("x-amz-content-sha256", UNSIGNED), ("x-amz-date", &date)];
        if let Some(token) = &self.keys.session_token {
            signed.push(("x-amz-security-token", token.expose()));
        }
        let authorization = self.authorization(method, uri, &signed, UNSIGNED);
        let added = signed.into_iter().skip(1).chain([(header::AUTHORIZATION.as_str(), &*authorization)]);
        added
            .map(|(name, value)| {
                let mut value = HeaderValue::from_str(value).map_err(|_| {
                    Error::invalid("keys", "a key of AWS holds characters that no header can".to_owned())
                })?;
                value.set_sensitive(true);
                Ok((name.parse::<HeaderName>().expect("these are names of headers"), value))
            })
            .collect()
    }

    /// The signature over these headers, which are in order of their names and hold the date.
    fn authorization(&self, method: &Method, uri: &Uri, signed: &[(&str, &str)], body: &str) -> String {
        let date = signed.iter().find(|(name, _)| *name == "x-amz-date").map_or("", |(_, value)| value);
        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut request = format!("{method}\n{}\n{}\n", self.path(uri), query(uri));
        for (name, value) in signed {
            let value: Vec<&str> = value.split_whitespace().collect();
            writeln!(request, "{name}:{}", value.join(" ")).expect("a text takes all");
        }
        write!(request, "\n{names}\n{body}").expect("a text takes all");
        let to_sign = format!(
            "{ALGORITHM}\n{date}\n{scope}\n{}",
            hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref())
        );
        let first = format!("AWS4{}", self.keys.secret.expose());
        let steps = [day, &self.region, &self.service, "aws4_request", &to_sign];
        let signature = steps.iter().fold(first.into_bytes(), |key, step| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), step.as_bytes()).as_ref().to_vec()
        });
        let (id, signature) = (&self.keys.id, hex(&signature));
        format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
    }

    /// The path as it is signed: S3 takes it as it is sent, all others escape it once more.
    fn path(&self, uri: &Uri) -> String {
        match self.service.as_str() {
            "s3" => uri.path().to_owned(),
            _ => uri.path().split('/').map(escaped).collect::<Vec<_>>().join("/"),
        }
    }
}

/// The parameters in order.
fn query(uri: &Uri) -> String {
    let parameters = uri.query().unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty());
    let mut all: Vec<(&str, &str)> =
        parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, ""))).collect();
    all.sort_unstable();
    all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut all, byte| {
        write!(all, "{byte:02x}").expect("a text takes all");
        all
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn signer(service: &str) -> Signer {
        let keys = Keys {
            id: "AKIDEXAMPLE".into(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        };
        Signer { keys, region: "us-east-1".into(), service: service.into() }
    }

    /// Cases of AWS's published test suite.
    #[test]
    fn published_signatures() {
        let nothing = hex(digest::digest(&digest::SHA256, b"").as_ref());
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        for (method, path, signature) in [
            ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "GET",
                "/?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let uri: Uri = format!("https://example.amazonaws.com{path}").parse().unwrap();
            let method: Method = method.parse().unwrap();
            let authorization = signer("service").authorization(&method, &uri, &headers, &nothing);
            assert_eq!(
                authorization,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders=host;x-amz-date, Signature={signature}"
                ),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn headers_of_temporary_keys_are_all_signed_and_sensitive() {
        let mut signer = signer("s3");
        signer.keys.session_token = Some(Secret::new("the-session"));
        let uri: Uri = "https://bucket.s3.amazonaws.com/ac/abc".parse().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let headers = signer.headers(&Method::GET, &uri, now).unwrap();
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
        assert_eq!(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        assert_eq!(headers["x-amz-security-token"], "the-session");
        let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,";
        assert!(headers[header::AUTHORIZATION].to_str().unwrap().contains(signed));
        assert!(headers.values().all(HeaderValue::is_sensitive));
    }
}
