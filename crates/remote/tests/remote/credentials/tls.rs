//! `grpcs` addresses: who is trusted, who we are to the server, and certificates that change under way.

use super::{
    super::fake::*,
    authority::{Authority, terminate},
};
use mortar_model::{ActionCache, ActionKey, Kind};
use mortar_remote::{Endpoint, Options, Tls};
use std::net::SocketAddr;
use tokio::net::TcpListener;

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(Fake::default().router().serve_with_incoming(incoming));
    address
}

/// One call to `localhost:port` with these settings.
async fn call(port: u16, tls: &Tls) -> mortar_model::Result<()> {
    let retry = mortar_remote::Retry::NEVER;
    let options = Options { tls: tls.clone(), retry, ..options() };
    let remote = Endpoint::connect(&format!("grpcs://localhost:{port}"), options)?;
    ActionCache::get(&remote, &context(), ActionKey::from(content(1).0)).await.map(|_| ())
}

#[tokio::test]
async fn servers_are_checked() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let trusting = |authority: &Authority, name: &str| {
        let ca = directory.path().join(name);
        std::fs::write(&ca, authority.pem()).unwrap();
        Tls { ca: Some(ca), ..Tls::default() }
    };
    let (good, bad) = (trusting(&authority, "good"), trusting(&stranger, "bad"));
    let port = terminate(serve().await, &authority, None).await;
    call(port, &good).await.unwrap();
    for (tls, needle) in [
        (bad, "invalid peer certificate"),
        (Tls { server_name: Some("elsewhere".into()), ..good.clone() }, "elsewhere"),
    ] {
        let error = call(port, &tls).await.unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Unavailable { .. }) && error.to_string().contains(needle),
            "{error}"
        );
    }
}

#[tokio::test]
async fn clients_prove_themselves_and_may_renew_their_certificate() {
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca");
    std::fs::write(&ca, authority.pem()).unwrap();
    let port = terminate(serve().await, &authority, Some(&clients)).await;
    let anonymous = Tls { ca: Some(ca), ..Tls::default() };
    assert!(call(port, &anonymous).await.is_err());
    let (certificate, key) = stranger.write(directory.path(), "me");
    let tls = Tls { certificate: Some(certificate), key: Some(key), ..anonymous };
    let options = Options { tls: tls.clone(), retry: mortar_remote::Retry::NEVER, ..options() };
    let remote = Endpoint::connect(&format!("grpcs://localhost:{port}"), options).unwrap();
    let get =
        || async { ActionCache::get(&remote, &context(), ActionKey::from(content(1).0)).await.map(|_| ()) };
    assert!(get().await.is_err(), "a certificate of somebody else");
    clients.write(directory.path(), "me");
    get().await.expect("the files are read for each connection");
}

#[tokio::test]
async fn files_that_are_wrong_are_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = Authority::new().write(directory.path(), "me");
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let none = Tls { ca: Some(certificate.clone()), ..Tls::default() };
    for (tls, needle) in [
        (Tls { ca: Some(empty.clone()), ..none.clone() }, "holds no certificate"),
        (Tls { ca: Some("/nowhere/ca".into()), ..none.clone() }, "`/nowhere/ca`"),
        (Tls { certificate: Some(certificate.clone()), ..none.clone() }, "needs its private key"),
        (Tls { key: Some(key.clone()), ..none.clone() }, "needs its certificate"),
        (Tls { certificate: Some(certificate), key: Some(empty), ..none }, "no private key"),
    ] {
        let error =
            Endpoint::connect("grpcs://localhost:1", Options { tls, ..options() }).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(needle), "{error}");
    }
}
