//! The HTTP cache over HTTP/1.1 and HTTP/2 on the same port as gRPC.

use crate::support::{Server, compressing_server, digest, server, text};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mortar_wire::reapi;
use prost::Message;

struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    agent: &'static str,
}

impl Http {
    fn new(server: &Server, http2: bool, agent: &'static str) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        Self { client, base: format!("http://{}", server.address), agent }
    }

    async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        self.call_with(method, path, &[], body).await
    }

    async fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("{}{path}", self.base))
            .header("user-agent", self.agent);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::new(body.into())).unwrap();
        let (head, body) = self.client.request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    async fn status(&self, method: &str, path: &str, body: &'static str) -> StatusCode {
        self.call(method, path, body).await.status()
    }
}

#[tokio::test]
async fn blobs_go_in_and_out_over_both_versions() {
    let server = server().await;
    for (http2, content) in [(false, "over one"), (true, "over two")] {
        let http = Http::new(&server, http2, "curl/8");
        let path = format!("/cas/{}", digest(content.as_bytes()).hex());
        assert_eq!(http.status("GET", &path, "").await, StatusCode::NOT_FOUND);
        assert_eq!(http.status("HEAD", &path, "").await, StatusCode::NOT_FOUND);
        assert_eq!(http.status("PUT", &path, content).await, StatusCode::OK);
        assert_eq!(http.status("PUT", &path, content).await, StatusCode::OK);
        let got = http.call("GET", &path, "").await;
        assert_eq!((got.status(), got.body().as_ref()), (StatusCode::OK, content.as_bytes()));
        let head = http.call("HEAD", &path, "").await;
        assert_eq!(head.headers()["content-length"], content.len().to_string());
        assert!(head.body().is_empty());
    }
}

#[tokio::test]
async fn wrong_content_is_refused_and_not_kept() {
    let server = server().await;
    let http = Http::new(&server, false, "curl/8");
    let right = digest(b"right");
    let path = format!("/cas/{}", right.hex());
    let answer = http.call("PUT", &path, "wrong").await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(answer.body()).contains("does not match"));
    assert!(!server.has(right).await);
    for path in ["/cas/xyz", "/cas/ABC", &format!("/a/../cas/{}", right.hex())] {
        assert_eq!(http.status("PUT", path, "right").await, StatusCode::BAD_REQUEST, "{path}");
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn results_of_bazel_are_shared_with_grpc_and_checked() {
    let server = server().await;
    let (bazel, curl) = (Http::new(&server, false, "bazel/"), Http::new(&server, false, "curl/8"));
    let key = digest(b"an action");
    let path = format!("/ac/{}", key.hex());
    let result = reapi::ActionResult { stdout_raw: "said".into(), ..Default::default() };
    assert_eq!(bazel.call("PUT", &path, "\u{ff}no result").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bazel.status("GET", &path, "").await, StatusCode::NOT_FOUND);
    assert_eq!(bazel.call("PUT", &path, result.encode_to_vec()).await.status(), StatusCode::OK);
    for http in [&bazel, &curl] {
        let got = http.call("GET", &path, "").await;
        assert_eq!(reapi::ActionResult::decode(got.body().clone()).unwrap().stdout_raw, "said");
    }
    let mut grpc = reapi::action_cache_client::ActionCacheClient::new(server.channel.clone());
    let request = reapi::GetActionResultRequest {
        action_digest: Some(mortar_wire::digest_to_wire(key)),
        ..Default::default()
    };
    assert_eq!(grpc.get_action_result(request).await.unwrap().into_inner().stdout_raw, "said");
}

#[tokio::test]
async fn values_of_other_clients_are_kept_as_they_are() {
    let server = server().await;
    let (bazel, other) = (Http::new(&server, false, "bazel/"), Http::new(&server, false, "ccache/4.7"));
    let hash = digest(b"key").hex();
    for path in [
        format!("/ac/{hash}"),
        "/ac/.check".to_owned(),
        format!("/ac/a/b/c/{hash}"),
        format!("/team/ac/{hash}"),
    ] {
        let value = format!("\u{0}opaque {path}");
        assert_eq!(other.call("PUT", &path, value.clone()).await.status(), StatusCode::OK);
        assert_eq!(other.call("GET", &path, "").await.body(), &value, "{path}");
        assert_eq!(bazel.status("GET", &path, "").await, StatusCode::NOT_FOUND, "{path}");
    }
    let other_instance = other.call("GET", &format!("/else/ac/{hash}"), "").await;
    assert_eq!(other_instance.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn webdav_and_lost_visitors() {
    let server = server().await;
    let http = Http::new(&server, false, "curl/8");
    assert_eq!(http.status("PROPFIND", "/ac/", "").await, StatusCode::NOT_FOUND);
    assert_eq!(http.status("MKCOL", "/ac/a/", "").await, StatusCode::CREATED);
    assert_eq!(
        http.status("DELETE", &format!("/cas/{}", digest(b"x").hex()), "").await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let lost = http.call("GET", "/wherever", "").await;
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    assert!(String::from_utf8_lossy(lost.body()).contains("grpc://HOST:PORT"));
}

#[tokio::test]
async fn blobs_come_as_zstd_where_that_is_welcome() {
    let server = compressing_server().await;
    let http = Http::new(&server, false, "curl/8");
    let (digest, text) = text(300_000);
    server.keep(text.clone()).await;
    let path = format!("/cas/{}", digest.hex());
    let zstd = http.call_with("GET", &path, &[("accept-encoding", "gzip, zstd")], "").await;
    assert_eq!(
        (&zstd.headers()["content-encoding"], &zstd.headers()["vary"]),
        (&"zstd".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    assert!(zstd.body().len() < text.len() / 2 && !zstd.headers().contains_key("content-length"));
    assert!(zstd::decode_all(&zstd.body()[..]).unwrap() == text);
    for (method, headers) in [
        ("GET", &[][..]),
        ("GET", &[("accept-encoding", "gzip")]),
        // Ranges that are not understood are of no account, but whole means as it is.
        ("GET", &[("accept-encoding", "zstd"), ("range", "bytes=1-2,4-5")]),
        ("HEAD", &[("accept-encoding", "zstd")]),
    ] {
        let plain = http.call_with(method, &path, headers, "").await;
        assert_eq!(plain.headers()["content-length"], text.len().to_string());
        assert!(
            !plain.headers().contains_key("content-encoding") && plain.headers()["vary"] == "accept-encoding"
        );
        assert!(plain.body() == if method == "GET" { &text[..] } else { b"" });
    }
}

#[tokio::test]
async fn parts_come_as_they_are() {
    let server = compressing_server().await;
    let (digest, text) = text(300_000);
    server.keep(text.clone()).await;
    let path = format!("/cas/{}", digest.hex());
    for http2 in [false, true] {
        let http = Http::new(&server, http2, "curl/8");
        for (range, start, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=1000-", 1000, 300_000),
            ("bytes=5-9", 5, 10),
            ("bytes=-7", 299_993, 300_000),
        ] {
            let part =
                http.call_with("GET", &path, &[("accept-encoding", "zstd"), ("range", range)], "").await;
            assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(part.headers()["content-range"], format!("bytes {start}-{}/300000", end - 1));
            assert_eq!(part.headers()["content-length"], (end - start).to_string());
            assert!(!part.headers().contains_key("content-encoding"));
            assert!(part.body() == &text[start..end], "{range}");
        }
        let beyond = http.call_with("GET", &path, &[("range", "bytes=300000-")], "").await;
        assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(beyond.headers()["content-range"], "bytes */300000");
    }
}

#[tokio::test]
async fn blobs_are_taken_as_zstd() {
    let (digest, text) = text(300_000);
    let path = format!("/cas/{}", digest.hex());
    let frames = zstd::encode_all(&text[..], 3).unwrap();
    let size = text.len().to_string();
    let headers = [("content-encoding", "zstd"), ("x-digest-sizebytes", &*size)];

    let server = server().await;
    let refused = Http::new(&server, false, "curl/8").call_with("PUT", &path, &headers, frames.clone()).await;
    assert_eq!(refused.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);

    let server = compressing_server().await;
    let http = Http::new(&server, false, "curl/8");
    let other = zstd::encode_all(&text[1..], 3).unwrap();
    for (headers, body, needle) in [
        (&headers[..1], frames.clone(), "X-Digest-SizeBytes"),
        (&headers[..], frames[..frames.len() / 2].to_vec(), "zstd"),
        (&headers[..], other, "299999 bytes"),
        (&headers[..], text.to_vec(), "zstd"),
    ] {
        let answer = http.call_with("PUT", &path, headers, body).await;
        let message = String::from_utf8_lossy(answer.body());
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{message}");
        assert!(message.contains(needle), "{message}");
        assert!(!server.has(digest).await);
    }
    for _ in 0..2 {
        assert_eq!(http.call_with("PUT", &path, &headers, frames.clone()).await.status(), StatusCode::OK);
        assert!(http.call("GET", &path, "").await.body() == &text);
    }
}
