//! A repository rule with `remotable = True` runs on a worker; a second machine gets it from the cache.

use anyhow::{Result, ensure};
use mortar_model::{BlobStoreExt, Context, Digest, DigestFunction};
use mortar_remote::{Endpoint, Options};
use mortar_testkit::bazel::{Bazel, Project};
use mortar_testkit::http;
use mortar_testkit::mortar::Mortar;
use mortar_wire::reapi;
use prost::Message;

use crate::grpc_log::{self, Call};
use crate::up;

#[test]
fn a_repository_rule_runs_remotely_and_is_shared() -> Result<()> {
    let server = up()?;
    let first = Machine::new(&server.mortar)?;
    let calls = first.fetch()?;
    let executions: Vec<_> = calls.iter().filter_map(Call::execute).collect();
    let [(request, result)] = &executions[..] else { panic!("{} executions", executions.len()) };
    assert_eq!(executed(&server.mortar)?, 1);
    assert_is_as_bazel_sends_it(&server.mortar, request)?;
    let said = (&result.stdout_raw[..], &result.stderr_raw[..]);
    assert!(said.0.starts_with(b"hello\n") && said.1 == b"aside\n", "{said:?}");
    assert_reads_nothing(&calls);
    let answer = first.answer()?;
    ensure!(answer.starts_with("hello\n") && answer.ends_with("\naside\n"), "{answer}");
    ensure!(!answer.contains("/external/asked"), "it ran on this machine: {answer}");

    let before = executed(&server.mortar)?;
    let second = Machine::new(&server.mortar)?;
    let calls = second.fetch()?;
    assert!(calls.iter().all(|call| call.execute().is_none()), "{calls:?}");
    let look_ups: Vec<_> = calls.iter().filter_map(Call::look_up).collect();
    let [(request, Some(known))] = &look_ups[..] else { panic!("{look_ups:?}") };
    assert!(request.inline_stdout && request.inline_stderr, "{request:?}");
    assert_eq!((&known.stdout_raw[..], &known.stderr_raw[..]), said);
    assert_reads_nothing(&calls);
    // It tells the time in nanoseconds: only the same run can have said the same.
    assert_eq!(second.answer()?, answer);
    assert_eq!(executed(&server.mortar)?, before, "a second machine executes nothing");
    Ok(())
}

/// A workspace and an output base that nobody used before.
struct Machine(Bazel);

impl Machine {
    fn new(server: &Mortar) -> Result<Self> {
        let mut bazel = Bazel::v4(&Project::repository_rule()?)?;
        bazel
            .set_flags(&["--experimental_repo_remote_exec", &format!("--remote_executor={}", server.grpc())]);
        Ok(Self(bazel))
    }

    /// Fetches the repository, and no more; the calls that it took.
    fn fetch(&self) -> Result<Vec<Call>> {
        let log = self.0.workspace().join("../calls");
        let logged = format!("--experimental_remote_grpc_log={}", log.display());
        let finished = self.0.build(&["--nobuild", &logged], &["//:answer"])?.finished;
        ensure!(finished.status.success(), "{}", finished.stderr);
        grpc_log::read(&log)
    }

    /// What the command said.
    fn answer(&self) -> Result<String> {
        self.0.build(&[], &["//:answer"])?.success()?;
        self.0.output("answer.txt")
    }
}

/// How many actions the server had executed.
fn executed(server: &Mortar) -> Result<u64> {
    let page = http::get(server.address(), "/status.json")?;
    let figures: serde_json::Value = serde_json::from_slice(&page.body)?;
    Ok(figures["executions"]["executed"].as_u64().unwrap_or_default())
}

/// An empty input root, a command without outputs, ten minutes.
fn assert_is_as_bazel_sends_it(server: &Mortar, request: &reapi::ExecuteRequest) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let remote = Endpoint::connect(&server.grpc(), Options::default())?;
    let read = |digest: &Option<reapi::Digest>| {
        let digest = digest.clone().unwrap_or_default();
        let digest = Digest::parse(DigestFunction::Sha256, &digest.hash, digest.size_bytes)?;
        runtime.block_on(remote.read_all(&Context::internal(), digest, 1 << 20))
    };
    let action = reapi::Action::decode(read(&request.action_digest)?)?;
    let root = action.input_root_digest.clone().unwrap_or_default();
    assert_eq!(root.hash, Digest::empty(DigestFunction::Sha256).hex(), "the input root is empty");
    assert_eq!(action.timeout.map(|timeout| timeout.seconds), Some(600));
    let command = reapi::Command::decode(read(&action.command_digest)?)?;
    assert_eq!(command.arguments[..2], ["/bin/sh", "-c"]);
    assert!(command.output_paths.is_empty() && command.environment_variables.len() == 1, "{command:?}");
    Ok(())
}

/// What the command said came with its result.
fn assert_reads_nothing(calls: &[Call]) {
    let read = calls.iter().find(|call| call.method.ends_with("ByteStream/Read"));
    assert_eq!(read, None);
}
