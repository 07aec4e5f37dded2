//! The conformance suite, through our own HTTP client, against a foreign HTTP cache: Apache's httpd with WebDAV, which
//! checks nothing of what it is given.

use std::sync::Arc;

use anyhow::{Result, ensure};
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestFunction, DigestSet, Kind, Range};
use mortar_remote::{HttpOptions, HttpUpstream, Protocol, Retry};
use mortar_testkit::apache::{Apache, Terms, USER};
use mortar_testkit::conformance::{Random, Subject, assert_conforms};

fn upstream(apache: &Apache, user: &str) -> Result<HttpUpstream> {
    let options = HttpOptions { retry: Retry::NEVER, ..HttpOptions::default() };
    Ok(HttpUpstream::new(format!("http://{user}{}/team", apache.address()).parse()?, options))
}

/// Which version it speaks is found out, once, and the trial does it no harm.
#[tokio::test(flavor = "multi_thread")]
async fn apache_conforms_over_what_it_speaks() -> Result<()> {
    for (http2, password, spoken) in [(true, false, Protocol::Http2), (false, true, Protocol::Http1)] {
        let dir = tempfile::tempdir()?;
        let terms = Terms { http2, password };
        let apache = Apache::cache(dir.path(), terms, &["team", "team/conformance/other"])?;
        let user = if password { format!("{USER}:open%3Asesame@") } else { String::new() };
        let upstream = upstream(&apache, &user)?;
        let mut subject = Subject::new(Arc::new(upstream.clone()));
        subject.actions = Some(Arc::new(upstream.clone()));
        subject.hashes = Some(Arc::new(upstream.clone()));
        subject.functions = vec![DigestFunction::Sha256];
        assert_conforms(&subject).await;
        assert_eq!(upstream.protocol(), Some(spoken), "{}", apache.log()?);
    }
    Ok(())
}

/// What lies there damaged, or in part, is not passed on, and a part counts as missing.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_damaged_is_found_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let apache = Apache::cache(dir.path(), Terms::default(), &["team"])?;
    let (upstream, context) = (upstream(&apache, "")?, Context::internal());
    for length in [1_000, 3 << 20] {
        let (digest, bytes) = Random::new().blob(DigestFunction::Sha256, length);
        upstream.write_bytes(&context, digest, bytes.clone()).await?;
        let file = apache.root().join("team/cas").join(digest.hex());
        ensure!(std::fs::read(&file)? == bytes, "the file has other content");

        let mut damaged = bytes.to_vec();
        damaged[length / 2] ^= 1;
        std::fs::write(&file, damaged)?;
        let blob = upstream.read(&context, digest, Range::ALL).await;
        let error = match blob {
            Ok(blob) => blob.into_bytes().await.expect_err("it is damaged"),
            Err(error) => error,
        };
        ensure!(matches!(error.kind(), Kind::Mismatch { .. }), "{error}");

        std::fs::write(&file, &bytes[1..])?;
        let missing = upstream.find_missing(&context, &DigestSet::from_iter([digest])).await?;
        ensure!(missing.contains(&digest), "a part of a blob counts as the blob");
        let error = upstream.read(&context, digest, Range::ALL).await.expect_err("it is not whole");
        ensure!(
            error.is_not_found() && error.to_string().contains(&format!("{} bytes", length - 1)),
            "{error}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let terms = Terms { password: true, http2: true };
    let apache = Apache::cache(dir.path(), terms, &["team"])?;
    let digest = Digest::of(DigestFunction::Sha256, b"x");
    for user in ["", "builder:guessed@", "somebody@"] {
        let upstream = upstream(&apache, user)?;
        let error = upstream.write_bytes(&Context::internal(), digest, "x".into()).await.expect_err(user);
        ensure!(matches!(error.kind(), Kind::Unauthenticated { .. }), "{error}");
        ensure!(error.to_string().contains("401") && !error.to_string().contains("guessed"), "{error}");
        let missing = upstream.find_missing(&Context::internal(), &DigestSet::from_iter([digest])).await;
        ensure!(matches!(missing.expect_err(user).kind(), Kind::Unauthenticated { .. }));
    }
    Ok(())
}
