//! Other ways to the server than plaintext TCP: a unix socket, which works, and TLS, which is refused with one line
//! that names the fix. Bazel 2.1.0 does both; Debian's 4.2.3 was built without netty's native parts, and crashes on
//! either before it dials: "Unix domain sockets are unsupported on this platform", "JDK provider does not support ALPN".

use std::time::Duration;

use anyhow::{Context, Result};
use mortar_model::{Digest, DigestFunction};
use mortar_testkit::bazel::{Bazel, Project};
use mortar_testkit::http;
use mortar_testkit::mortar;
use mortar_testkit::process::Running;

use crate::{MORTAR, assert_all_remote, up};

#[test]
fn bazel_builds_over_a_unix_socket() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("mortar.sock");
    let mut command = mortar::command(MORTAR.as_ref(), "up");
    command.arg("--dir").arg(dir.path().join("data"));
    let mut server = Running::start(command.arg(format!("--listen=unix:{}", socket.display())))?;
    server.wait_for_output("--remote_download_toplevel", Duration::from_secs(20))?;
    let stdout = server.stdout()?;
    let line = stdout.lines().find_map(|line| line.strip_prefix("build --remote_executor="));
    let url = line.context("no line for Bazel")?;
    assert_eq!(url, format!("unix:{}", socket.display()));

    let mut bazel = Bazel::v2(&Project::mixed()?)?;
    // Later Bazels take the URL as it is; this one wants the socket as a proxy before any address.
    bazel.set_flags(&["--remote_executor=grpc://mortar:1", &format!("--remote_proxy={url}")]);
    assert_all_remote(bazel.build(&[], &["//gen:all"])?.success()?);
    assert_eq!(bazel.output("gen/upper.txt")?, "MORTAR\n");
    Ok(())
}

#[test]
fn bazel_that_speaks_tls_fails_and_the_log_names_the_fix() -> Result<()> {
    let server = up()?;
    let mut bazel = Bazel::v2(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor=grpcs://{}", server.mortar.address())]);
    // However often it tries.
    for _ in 0..2 {
        let said = bazel.build(&[], &["//gen:all"])?.failure()?;
        assert!(said.contains("SSL") || said.contains("TLS") || said.contains("UNAVAILABLE"), "{said}");
    }
    let log = server.mortar.log()?;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("TLS")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("use grpc:// instead of grpcs://"), "{log}");

    bazel.set_flags(&[&format!("--remote_executor={}", server.mortar.grpc())]);
    assert_all_remote(bazel.build(&[], &["//gen:all"])?.success()?);
    Ok(())
}

#[test]
fn metrics_are_those_of_what_was_done() -> Result<()> {
    let server = up()?;
    let blob = b"kept";
    let path = format!("/cas/{}", Digest::of(DigestFunction::Sha256, blob).hex());
    assert_eq!(http::put(server.mortar.address(), &path, blob)?.status, 200);
    let answer = http::get(server.mortar.address(), "/metrics")?;
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body)?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    assert_eq!(value("mortar_store_blobs"), Some("1"), "{text}");
    assert_eq!(value("mortar_workers"), Some("1"), "{text}");
    assert_eq!(value("mortar_lease_violations_total"), Some("0"), "{text}");
    assert!(value("mortar_received_bytes_total").context("no bytes")?.parse::<u64>()? > 0, "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    Ok(())
}
