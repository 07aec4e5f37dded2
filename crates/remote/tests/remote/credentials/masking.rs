//! No secret in any text: neither in what is printed of a source, nor in errors, nor in all that is logged by anybody
//! while calls carry credentials.

use super::{
    super::fake::*,
    calls::Gate,
    endpoint::{Asked, Endpoint},
};
use mortar_model::{ActionCache, ActionKey};
use mortar_remote::{
    Endpoint as Server, Options, Tls,
    credentials::{
        ClientCredentials, Credentials, DeviceFlow, Google, Netrc, Provider, Secret, StaticHeaders,
        TokenFile, Wallet,
        aws::{Aws, Chain},
    },
};
use parking_lot::Mutex;
use std::{collections::HashMap, io::Write, sync::Arc};
use tracing_subscriber::fmt::MakeWriter;

/// In every secret of these tests, and in nothing else.
const MARK: &str = "HUSHHUSH";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A source with a secret from everywhere.
fn sources(base: &str, directory: &std::path::Path) -> Vec<Box<dyn Fn() -> Arc<dyn Credentials>>> {
    let secret = || Secret::new(format!("{MARK}-given"));
    let endpoints = |path: &str| Provider::Endpoints {
        token: format!("{base}/{path}"),
        device: Some(format!("{base}/device")),
    };
    let (good, refusing, garbled) = (endpoints("token"), endpoints("refusing"), endpoints("garbled"));
    let client = move |provider: &Provider| ClientCredentials {
        provider: provider.clone(),
        client_id: "c".into(),
        client_secret: secret(),
        scopes: vec![],
        audience: None,
        tls: Tls::default(),
    };
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let token = write("token", format!("{MARK}-file"));
    let netrc = write("netrc", format!("machine 127.0.0.1 login x password {MARK}"));
    let user = serde_json::json!({
        "type": "authorized_user", "client_id": "c", "client_secret": MARK, "refresh_token": MARK,
        "token_uri": format!("{base}/token"),
    });
    let (user, kept) = (write("adc", user.to_string()), write("kept", MARK.into()));
    let environment: HashMap<_, _> =
        [("AWS_ACCESS_KEY_ID", "ID"), ("AWS_SECRET_ACCESS_KEY", MARK), ("AWS_SESSION_TOKEN", MARK)]
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .into();
    let device = good.clone();
    vec![
        Box::new(move || Arc::new(client(&good))),
        Box::new(move || Arc::new(client(&refusing))),
        Box::new(move || Arc::new(client(&garbled))),
        Box::new(move || {
            let flow = DeviceFlow::new(device.clone(), "c", vec![]).with_secret(Some(secret()));
            Arc::new(flow.kept_in(Some(kept.clone())))
        }),
        Box::new(move || Arc::new(TokenFile::new(&token))),
        Box::new(move || Arc::new(Netrc::new(&netrc))),
        Box::new(move || {
            Arc::new(StaticHeaders::new([("x-api-key", &secret()), ("authorization", &secret())]).unwrap())
        }),
        Box::new(move || {
            Arc::new(Google {
                file: Some(user.clone()),
                user_file: None,
                metadata: String::new(),
                scopes: vec![],
                tls: Tls::default(),
            })
        }),
        Box::new(move || {
            let chain = Chain {
                environment: environment.clone(),
                profile_files: vec![],
                container: String::new(),
                instance: String::new(),
                tls: Tls::default(),
            };
            Arc::new(Aws { chain, region: "r".into(), service: "s3".into() })
        }),
    ]
}

/// One thread, so that all tasks log to where this test listens.
#[tokio::test]
async fn no_secret_in_any_text() {
    let log = Log::default();
    let everything = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // While there is just one listener, `tracing` forgets places of the log that a thread without one comes to first.
    let second = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::sink);
    let _second = tracing::Dispatch::new(second.finish());
    let _listening = tracing::subscriber::set_default(everything);
    let endpoint = Endpoint::serve(|asked: &Asked| match asked.path.as_str() {
        "/refusing" => (400, r#"{"error": "invalid_client"}"#.into()),
        "/garbled" => (200, format!(r#"{{"access_token": {{"{MARK}": 1}}}}"#)),
        _ => (
            200,
            format!(r#"{{"access_token": "{MARK}-t", "expires_in": 3600, "refresh_token": "{MARK}-r"}}"#),
        ),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    gate.allow(&format!("{MARK}-t"), None);
    let uri = gate.serve(&Fake::default()).await;
    let mut texts = Vec::new();
    let (mut let_in, mut kept_out) = (0, 0);
    for source in sources(&endpoint.base, directory.path()) {
        let source = source();
        texts.push(format!("{source:?} {source:#?} {}", source.name()));
        if let Ok(grant) = source.grant(&"http://127.0.0.1".parse().unwrap()).await {
            texts.push(format!("{grant:?} {grant:#?}"));
        }
        let wallet = Wallet::new(vec![mortar_remote::credentials::Rule { hosts: vec![], source }]);
        let options = Options { credentials: Some(wallet), ..options() };
        texts.push(format!("{options:?}"));
        let remote = Server::connect(&uri, options).unwrap();
        match ActionCache::get(&remote, &context(), ActionKey::from(content(1).0)).await {
            Ok(_) => let_in += 1,
            Err(error) => {
                kept_out += 1;
                texts.push(format!("{error} {error:?}"));
            }
        }
    }
    assert_eq!((let_in, kept_out), (3, 6), "some are let in, some refused, some fail before");
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(log.contains("credentials were refused") && log.contains("Headers {"), "the log tells all else");
    for text in texts.iter().chain([&log]) {
        let line = text.lines().find(|line| line.contains(MARK));
        assert_eq!(line, None, "a secret was told");
    }
}
