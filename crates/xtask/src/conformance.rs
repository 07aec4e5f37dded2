//! `cargo xtask conformance URL`: the conformance suite of `testkit` against a live server, foreign ones too.
//!
//! The server is seen through `mortar-remote`, whose own conduct is part of what is checked; nothing is tried twice, so that
//! what passes does so at once. Blobs and results that the checks write stay on the server until it evicts them.

use anyhow::{Context as _, bail, ensure};
use mortar_model::{Context, DigestFunction, Encoding, InstanceName, Kind, UploadId, UploadSessions};
use mortar_remote::{Capabilities, Endpoint, Options, Remote, Retry};
use mortar_testkit::conformance::{Random, Subject, Verdict, checks};
use std::{sync::Arc, time::Instant};

/// Flags of `cargo xtask conformance`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The server: grpc://HOST:PORT or unix:PATH.
    url: String,
    /// The instance to address.
    #[arg(long, value_name = "NAME", default_value = "")]
    instance: String,
    /// A second instance, of which it is checked that results are kept apart.
    #[arg(long, value_name = "NAME")]
    other_instance: Option<String>,
    /// Only the checks whose name contains this.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
}

/// Runs the checks one after another and lists each. Fails if one of them does.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(check(arguments))
}

async fn check(arguments: &Arguments) -> anyhow::Result<()> {
    let remote = Endpoint::connect(&arguments.url, Options { retry: Retry::NEVER, ..Options::default() })?;
    let context = Context::internal().with_instance(InstanceName::parse(&arguments.instance)?);
    let capabilities =
        remote.capabilities(&context).await.with_context(|| format!("asking `{}`", arguments.url))?;
    describe(&capabilities);
    let subject = subject(&remote, context, &capabilities, arguments).await?;

    let part = arguments.only.as_deref().unwrap_or_default();
    let (mut passed, mut failed, mut not_offered) = (0, 0, 0);
    for check in checks().into_iter().filter(|check| check.name.contains(part)) {
        let started = Instant::now();
        let verdict = check.run(&subject).await;
        let name = check.name.replace('_', " ");
        let seconds = started.elapsed().as_secs_f64();
        match verdict {
            Verdict::Passed => {
                passed += 1;
                println!("pass  {name} ({seconds:.1} s)");
            }
            Verdict::NotOffered => {
                not_offered += 1;
                println!("  -   {name}: not offered over this protocol");
            }
            Verdict::Failed(why) => {
                failed += 1;
                println!("FAIL  {name}: {why}");
            }
        }
    }
    println!("\n{passed} passed, {failed} failed, {not_offered} not offered");
    ensure!(passed + failed > 0, "no check was run; `--only {part}` leaves none");
    if failed > 0 {
        bail!("`{}` does not conform", arguments.url);
    }
    Ok(())
}

/// What the server offers of what can be checked over gRPC.
async fn subject(
    remote: &Remote,
    context: Context,
    capabilities: &Capabilities,
    arguments: &Arguments,
) -> anyhow::Result<Subject> {
    let mut subject = Subject::new(Arc::new(remote.clone()));
    if resumes_uploads(remote, &context).await? {
        subject.uploads = Some(Arc::new(remote.uploads()));
    }
    if capabilities.action_cache_updates {
        subject.actions = Some(Arc::new(remote.clone()));
    }
    if let Some(chunks) = remote.chunks(&context).await? {
        subject.chunks = Some(Arc::new(chunks));
    }
    subject.functions = match capabilities.digest_functions.as_slice() {
        [] => vec![DigestFunction::Sha256],
        functions => functions.to_vec(),
    };
    subject.other_instance = arguments.other_instance.as_deref().map(InstanceName::parse).transpose()?;
    subject.context = context;
    Ok(subject)
}

/// Whether the server answers for the status of an upload; the protocol leaves that open.
async fn resumes_uploads(remote: &Remote, context: &Context) -> anyhow::Result<bool> {
    let (digest, _) = Random::new().blob(DigestFunction::Sha256, 100);
    match remote.uploads().open(context, &UploadId("probe".into()), digest, Encoding::Identity).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), Kind::Unimplemented { .. }) => Ok(false),
        Err(error) => Err(error).context("asking for the status of an upload"),
    }
}

fn describe(capabilities: &Capabilities) {
    let (low, high) = &capabilities.api_versions;
    let functions: Vec<_> = capabilities.digest_functions.iter().map(|function| function.name()).collect();
    let updates = if capabilities.action_cache_updates { "" } else { "no " };
    println!("API {low} to {high}; {}; {updates}updates of the action cache\n", functions.join(", "));
}
