//! The conformance suite, through our own client, against a foreign server: what fails on both sides would be a defect
//! of the suite or of the client.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use mortar_model::{Context, DigestFunction, Encoding, Kind, UploadId, UploadSessions};
use mortar_remote::{Endpoint, Options, Remote, Retry};
use mortar_testkit::casd::Casd;
use mortar_testkit::conformance::{Random, Subject, Verdict, checks};

/// Checks that buildbox-casd is known to fail, each with the reason.
const EXEMPT: &[(&str, &str)] = &[(
    "a_wrong_size_names_no_blob",
    "asked for a blob under a wrong size, buildbox-casd takes its file for damaged and deletes it",
)];

#[tokio::test(flavor = "multi_thread")]
async fn casd_conforms_but_for_what_is_known() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let casd = Casd::server(dir.path())?;
    let options = Options { retry: Retry::NEVER, ..Options::default() };
    let remote = Endpoint::connect(&casd.grpc(), options)?;
    let subject = subject(&remote).await?;
    let (mut failed, mut passed) = (BTreeMap::new(), Vec::new());
    for check in checks() {
        match check.run(&subject).await {
            Verdict::Passed => passed.push(check.name),
            Verdict::NotOffered => {}
            Verdict::Failed(why) => drop(failed.insert(check.name, why)),
        }
    }
    for (name, reason) in EXEMPT {
        let failure = failed.remove(name);
        assert!(failure.is_some(), "`{name}` holds now, so it needs no exemption any more ({reason})");
    }
    assert!(failed.is_empty(), "{failed:#?}\n{}", casd.log()?);
    assert!(passed.len() >= 20, "hardly anything was checked: {passed:?}");
    Ok(())
}

/// What casd offers.
async fn subject(remote: &Remote) -> Result<Subject> {
    let context = Context::internal();
    let capabilities = remote.capabilities(&context).await.context("the capabilities of casd")?;
    assert!(capabilities.digest_functions.contains(&DigestFunction::Sha256), "{capabilities:?}");
    assert!(capabilities.action_cache_updates, "{capabilities:?}");
    // It has no QueryWriteStatus, so uploads cannot be resumed.
    let (digest, _) = Random::new().blob(DigestFunction::Sha256, 100);
    let probe = remote.uploads().open(&context, &UploadId("probe".into()), digest, Encoding::Identity).await;
    let error = probe.err().context("casd resumes uploads now: put that to the suite as well")?;
    assert!(matches!(error.kind(), Kind::Unimplemented { .. }), "{error:?}");

    let mut subject = Subject::new(Arc::new(remote.clone()));
    subject.actions = Some(Arc::new(remote.clone()));
    subject.functions = capabilities.digest_functions;
    subject.other_instance = None;
    Ok(subject)
}
