//! Each source against a fake of what it asks.

use super::endpoint::{Asked, Endpoint, plain};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Method;
use mortar_remote::{
    Tls,
    credentials::{
        ClientCredentials, Credentials, DeviceFlow, Google, Helper, Invitation, Netrc, Provider, Rule,
        Secret, StaticHeaders, TokenFile, Wallet,
        aws::{Aws, Chain},
    },
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

const HOST: &str = "https://cache.example.com:443";

/// What a request to `HOST` carries.
async fn headers(source: impl Credentials) -> Result<HashMap<String, String>, String> {
    headers_at(source, HOST).await
}

async fn headers_at(source: impl Credentials, uri: &str) -> Result<HashMap<String, String>, String> {
    let wallet = Wallet::of(source);
    let got = wallet.headers(&Method::GET, &uri.parse().unwrap()).await;
    let (headers, _) = got.map_err(|error| error.to_string())?;
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        assert!(value.is_sensitive(), "{name}");
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    Ok(headers.iter().map(text).collect())
}

async fn authorization(source: impl Credentials) -> Result<String, String> {
    headers(source).await.map(|mut headers| headers.remove("authorization").unwrap_or_default())
}

fn token(name: &str) -> (u16, String) {
    (200, format!(r#"{{"access_token": "{name}", "token_type": "bearer", "expires_in": 3600}}"#))
}

fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn of_two_sources_the_first_has_its_way() {
    let fixed = |headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, Secret::new(*value))).collect();
        StaticHeaders::new(headers.iter().map(|(name, value)| (*name, value))).unwrap()
    };
    let rule = |hosts: &[&str], source| Rule {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        source: Arc::new(source),
    };
    let wallet = Wallet::new(vec![
        rule(&["other.example.com"], fixed(&[("x-a", "never")])),
        rule(&["*.example.com"], fixed(&[("x-a", "1"), ("x-a", "2"), ("x-b", "3")])),
        rule(&[], fixed(&[("x-a", "4"), ("x-c", "5"), ("x-c", "6")])),
    ]);
    let (headers, expires) = wallet.headers(&Method::GET, &HOST.parse().unwrap()).await.unwrap();
    let values = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((values("x-a"), values("x-b"), values("x-c")), (vec!["1", "2"], vec!["3"], vec!["5", "6"]));
    assert_eq!(expires, None);
}

#[tokio::test]
async fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "token", " abc\n");
    assert_eq!(authorization(TokenFile::new(&path)).await.unwrap(), "Bearer abc");
    let empty = file(directory.path(), "empty", "\n");
    assert!(authorization(TokenFile::new(empty)).await.unwrap_err().contains("is empty"));
    let netrc = file(directory.path(), "netrc", "machine cache.example.com login me password pw");
    let basic = format!("Basic {}", STANDARD.encode("me:pw"));
    assert_eq!(authorization(Netrc::new(&netrc)).await.unwrap(), basic);
    assert!(headers_at(Netrc::new(netrc), "https://elsewhere:1").await.unwrap().is_empty());
    assert!(headers(Netrc::new("/nowhere/netrc")).await.unwrap().is_empty());
}

/// A helper that runs this.
fn script(directory: &Path, text: &str) -> PathBuf {
    let path = file(directory, "helper", &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn helpers() {
    let long = Duration::from_secs(60);
    let directory = tempfile::tempdir().unwrap();
    let run = |text: &str, timeout| headers(Helper::new(script(directory.path(), text), timeout));
    let answer = r#"[ "$1" = get ] && read asked && printf '{"headers": {"Authorization": ["Bearer h"], "X-Asked": ["%s"]}, "expires": "2100-01-01T00:00:00Z", "more": 1}' "$(echo "$asked" | tr -d '"')""#;
    let got = run(answer, long).await.unwrap();
    assert_eq!(got["authorization"], "Bearer h");
    assert_eq!(got["x-asked"], "{uri:https://cache.example.com:443/}");
    assert!(run(r#"echo '{}'"#, long).await.unwrap().is_empty(), "it does not even read the question");
    for (text, needle) in [
        ("echo not for you >&2; exit 3", "exit status: 3: not for you"),
        (r#"echo '{"headers": {"a": "hush"}}'"#, "wrong at line 1"),
        (r#"echo hush"#, "wrong at line 1"),
        (r#"echo '{"headers": {"a b": ["hush"]}}'"#, "`a b`"),
        (r#"echo '{"expires": "soon"}'"#, "`soon`"),
    ] {
        let error = run(text, long).await.unwrap_err();
        assert!(error.contains(needle) && !error.contains("hush"), "{text}: {error}");
    }
    let error = run("exec sleep 600", Duration::from_millis(50)).await.unwrap_err();
    assert!(error.contains("not answered within 50ms"), "{error}");
    let error = headers(Helper::new("/nowhere/helper", long)).await.unwrap_err();
    assert!(error.contains("`/nowhere/helper`"), "{error}");
}

fn client(provider: Provider) -> ClientCredentials {
    ClientCredentials {
        provider,
        client_id: "my ci".into(),
        client_secret: Secret::new("a:b"),
        scopes: vec!["cache".into(), "run".into()],
        audience: Some("mortar".into()),
        tls: Tls::default(),
    }
}

#[tokio::test]
async fn client_credentials_by_discovery() {
    let provider = Endpoint::serve(|asked: &Asked| match asked.path.as_str() {
        "/realm/.well-known/openid-configuration" => {
            let base = format!("http://{}/realm", asked.header("host"));
            (200, format!(r#"{{"issuer": "{base}", "token_endpoint": "{base}/token"}}"#))
        }
        "/realm/token" => token("cc"),
        _ => (404, String::new()),
    })
    .await;
    let issuer = format!("{}/realm/", provider.base);
    assert_eq!(authorization(client(Provider::Issuer(issuer))).await.unwrap(), "Bearer cc");
    let asked = &provider.asked()[1];
    assert_eq!(asked.field("grant_type"), "client_credentials");
    assert_eq!((asked.field("scope"), asked.field("audience")), ("cache run", "mortar"));
    assert_eq!(asked.header("authorization"), format!("Basic {}", STANDARD.encode("my%20ci:a%3Ab")));
    let elsewhere = format!("{}/other", provider.base);
    let error = authorization(client(Provider::Issuer(elsewhere))).await.unwrap_err();
    assert!(error.contains("answers 404"), "{error}");
}

#[tokio::test]
async fn providers_that_refuse_or_are_not_there() {
    let provider = Endpoint::serve(|asked: &Asked| match asked.path.as_str() {
        "/refusing" => (401, r#"{"error": "invalid_client", "error_description": "who?"}"#.into()),
        "/failing" => (503, "hush".into()),
        "/garbled" => (200, r#"{"access_token": ["hush"]}"#.into()),
        "/other" => (200, r#"{"access_token": "hush", "token_type": "mac"}"#.into()),
        _ => (200, r#"{"issuer": "https://another", "token_endpoint": "https://another/t"}"#.into()),
    })
    .await;
    let at = |path: &str| Provider::Endpoints { token: format!("{}/{path}", provider.base), device: None };
    for (provider, needle) in [
        (at("refusing"), "refuses: invalid_client: who?"),
        (at("failing"), "answers 503"),
        (at("garbled"), "wrong at line 1"),
        (at("other"), "of type `mac`"),
        (Provider::Issuer(provider.base.clone()), "speaks for issuer `https://another`"),
        (Provider::Endpoints { token: "http://cache.example.com/t".into(), device: None }, "without TLS"),
        (Provider::Endpoints { token: "nothing".into(), device: None }, "no http or https address"),
        (Provider::Endpoints { token: "http://127.0.0.1:1/t".into(), device: None }, "cannot be reached"),
    ] {
        let error = authorization(client(provider)).await.unwrap_err();
        assert!(error.contains(needle) && !error.contains("hush"), "{error}");
    }
}

/// The first start invites a person, the second has the refresh token, and one that is revoked invites again.
#[tokio::test]
async fn device_flow() {
    let valid = Arc::new(Mutex::new("refresh-1".to_owned()));
    let (polls, checked) = (Mutex::new(0), valid.clone());
    let provider = Endpoint::serve(move |asked: &Asked| match (asked.path.as_str(), asked.field("grant_type")) {
        ("/device", _) => {
            (200, r#"{"device_code": "dc", "user_code": "AB-CD", "verification_uri": "https://p/d", "expires_in": 600, "interval": 0}"#.into())
        }
        ("/token", "refresh_token") if asked.field("refresh_token") == *checked.lock() => token("refreshed"),
        ("/token", "refresh_token") => (400, r#"{"error": "invalid_grant"}"#.into()),
        ("/token", "urn:ietf:params:oauth:grant-type:device_code") if asked.field("device_code") == "dc" => {
            *polls.lock() += 1;
            match *polls.lock() % 3 {
                0 => (200, r#"{"access_token": "first", "expires_in": 3600, "refresh_token": "refresh-1"}"#.into()),
                _ => (400, r#"{"error": "authorization_pending"}"#.into()),
            }
        }
        _ => (404, String::new()),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("sub/refresh");
    let invitations = Arc::new(Mutex::new(Vec::new()));
    let flow = || {
        let invited = invitations.clone();
        let (token, device) = (format!("{}/token", provider.base), format!("{}/device", provider.base));
        DeviceFlow::new(
            Provider::Endpoints { token, device: Some(device) },
            "cli",
            vec!["offline_access".into()],
        )
        .kept_in(Some(kept.clone()))
        .inviting(Arc::new(move |invitation: &Invitation| invited.lock().push(invitation.clone())))
    };
    assert_eq!(authorization(flow()).await.unwrap(), "Bearer first");
    let invitation = Invitation { page: "https://p/d".into(), code: "AB-CD".into() };
    assert_eq!(*invitations.lock(), [invitation]);
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(authorization(flow()).await.unwrap(), "Bearer refreshed");
    assert_eq!(invitations.lock().len(), 1);
    *valid.lock() = "another".into();
    assert_eq!(authorization(flow()).await.unwrap(), "Bearer first");
    assert_eq!(invitations.lock().len(), 2);
    assert!(!format!("{:?}", flow()).contains("refresh-1"));
}

fn google(metadata: &str) -> Google {
    Google {
        file: None,
        user_file: None,
        metadata: metadata.trim_start_matches("http://").to_owned(),
        scopes: vec!["s1".into(), "s2".into()],
        tls: Tls::default(),
    }
}

#[tokio::test]
async fn google_by_service_account() {
    let endpoint = Endpoint::serve(|_| token("sa")).await;
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let account = serde_json::json!({
        "type": "service_account", "client_email": "me@project", "private_key": key.serialize_pem(),
        "private_key_id": "k1", "token_uri": format!("{}/token", endpoint.base), "project_id": "ignored",
    });
    let path = file(directory.path(), "key.json", &account.to_string());
    let source = Google { file: Some(path), ..google("127.0.0.1:1") };
    assert_eq!(authorization(source).await.unwrap(), "Bearer sa");
    let asked = endpoint.asked().remove(0);
    assert_eq!(asked.field("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer");
    let parts: Vec<&str> = asked.field("assertion").split('.').collect();
    let part = |number: usize| URL_SAFE_NO_PAD.decode(parts[number]).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&part(0)).unwrap();
    assert_eq!((&header["alg"], &header["kid"]), (&"RS256".into(), &"k1".into()));
    let claims: serde_json::Value = serde_json::from_slice(&part(1)).unwrap();
    assert_eq!((&claims["iss"], &claims["scope"]), (&"me@project".into(), &"s1 s2".into()));
    assert_eq!(claims["aud"], format!("{}/token", endpoint.base));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    let message = format!("{}.{}", parts[0], parts[1]);
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key_raw());
    public.verify(message.as_bytes(), &part(2)).expect("the signature is that of the key");
}

#[tokio::test]
async fn google_by_login_and_by_metadata_server() {
    let endpoint = Endpoint::serve(|asked: &Asked| match asked.path.split('?').next().unwrap() {
        "/token" => token("user"),
        "/computeMetadata/v1/instance/service-accounts/default/token"
            if asked.header("metadata-flavor") == "Google" =>
        {
            token("machine")
        }
        _ => (404, String::new()),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let account = serde_json::json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "cs", "refresh_token": "rt",
        "token_uri": format!("{}/token", endpoint.base),
    });
    let path = file(directory.path(), "adc.json", &account.to_string());
    let source = Google { user_file: Some(path), ..google(&endpoint.base) };
    assert_eq!(authorization(source).await.unwrap(), "Bearer user");
    let absent = Some(directory.path().join("absent"));
    let source = Google { user_file: absent.clone(), ..google(&endpoint.base) };
    assert_eq!(authorization(source).await.unwrap(), "Bearer machine");
    let asked = endpoint.asked();
    assert_eq!((asked[0].field("refresh_token"), asked[0].field("client_secret")), ("rt", "cs"));
    assert!(plain(&asked[1].path).ends_with("?scopes=s1,s2"), "{}", asked[1].path);
    let error = authorization(Google { file: absent, ..google(&endpoint.base) }).await.unwrap_err();
    assert!(error.contains("absent`"), "{error}");
    let error = authorization(google("127.0.0.1:1")).await.unwrap_err();
    assert!(error.contains("no metadata server of Google"), "{error}");
    let other = file(directory.path(), "other.json", r#"{"type": "external_account", "audience": "x"}"#);
    let error = authorization(Google { file: Some(other), ..google("") }).await.unwrap_err();
    assert!(error.contains("of a type that is not known"), "{error}");
}

fn aws(base: &str, set: &[(&str, &str)]) -> Aws {
    let chain = Chain {
        environment: set.iter().map(|(name, value)| ((*name).into(), Secret::new(*value))).collect(),
        profile_files: vec![],
        container: base.into(),
        instance: base.into(),
        tls: Tls::default(),
    };
    Aws { chain, region: "eu-central-1".into(), service: "s3".into() }
}

fn keys(id: &str) -> (u16, String) {
    let keys = serde_json::json!({
        "AccessKeyId": id, "SecretAccessKey": "sk", "Token": format!("session-of-{id}"),
        "Expiration": "2100-01-01T00:00:00Z",
    });
    (200, keys.to_string())
}

#[tokio::test]
async fn aws_by_container_instance_and_web_identity() {
    let endpoint = Endpoint::serve(|asked: &Asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/v2/credentials/1") => keys("CONTAINER"),
        ("GET", "/pod") if asked.header("authorization") == "pod-token" => keys("POD"),
        ("PUT", "/latest/api/token")
            if asked.headers.contains_key("x-aws-ec2-metadata-token-ttl-seconds") =>
        {
            (200, "session".into())
        }
        (_, path)
            if path.starts_with("/latest/") && asked.header("x-aws-ec2-metadata-token") != "session" =>
        {
            (401, String::new())
        }
        ("GET", "/latest/meta-data/iam/security-credentials/") => (200, "role-1".into()),
        ("GET", "/latest/meta-data/iam/security-credentials/role-1") => keys("INSTANCE"),
        ("POST", "/sts") if asked.field("WebIdentityToken") == "jwt" && asked.field("RoleArn") == "arn:r" => {
            let part = |tag: &str, value: &str| format!("<{tag}>{value}</{tag}>");
            let parts = [
                part("AccessKeyId", "WEB"),
                part("SecretAccessKey", "sk"),
                part("SessionToken", "session-of-WEB"),
                part("Expiration", "2100-01-01T00:00:00Z"),
            ];
            (200, format!("<R><Credentials>{}</Credentials></R>", parts.concat()))
        }
        _ => (404, String::new()),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let token = file(directory.path(), "jwt", "jwt\n");
    let (pod, sts) = (format!("{}/pod", endpoint.base), format!("{}/sts", endpoint.base));
    let web = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:r"),
        ("AWS_ENDPOINT_URL_STS", &sts),
    ];
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", pod.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token"),
    ];
    for (set, id) in [
        (&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1")][..], "CONTAINER"),
        (&pod[..], "POD"),
        (&web[..], "WEB"),
        (&[][..], "INSTANCE"),
    ] {
        let got = headers(aws(&endpoint.base, set)).await.unwrap();
        assert!(got["authorization"].starts_with(&format!("AWS4-HMAC-SHA256 Credential={id}/")), "{got:?}");
        assert!(got["authorization"].contains("/eu-central-1/s3/aws4_request, "), "{got:?}");
        assert_eq!(got["x-amz-security-token"], format!("session-of-{id}"));
    }
    let error = headers(aws(&endpoint.base, &[("AWS_EC2_METADATA_DISABLED", "true")])).await.unwrap_err();
    assert!(error.contains("not to be asked"), "{error}");
}

#[tokio::test]
async fn what_expires_is_told() {
    let provider = Endpoint::serve(|_| token("x")).await;
    let at = Provider::Endpoints { token: format!("{}/t", provider.base), device: None };
    let before = SystemTime::now();
    let (_, expires) = Wallet::of(client(at)).headers(&Method::GET, &HOST.parse().unwrap()).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(expires.is_some_and(|expires| expires >= before + hour && expires <= SystemTime::now() + hour));
}
