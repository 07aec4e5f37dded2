//! Executions whose streams break.

use crate::fake::{Fake, Fault, context, digest};
use mortar_model::{
    ActionResult, Context, Error, ExecuteRequest, ExecutionMetadata, Executor, InputsFollow, Kind, Outcome,
    OutputFile, Progress, Stage, Termination,
};
use mortar_remote::{Inline, Remote};
use mortar_wire::{
    execute_response,
    longrunning::{Operation, operation},
    reapi, stage_to_wire, status,
};
use parking_lot::Mutex;
use prost::Message;
use std::time::Duration;
use tonic::Status;

#[derive(Default)]
struct Stages(Mutex<Vec<Stage>>);

impl Progress for Stages {
    fn report(&self, stage: Stage, _: &ExecutionMetadata) {
        self.0.lock().push(stage);
    }
}

fn at(name: &str, stage: Stage) -> Operation {
    let metadata =
        reapi::ExecuteOperationMetadata { stage: stage_to_wire(stage).into(), ..Default::default() };
    let metadata = prost_types::Any { type_url: String::new(), value: metadata.encode_to_vec() };
    Operation { name: name.into(), metadata: Some(metadata), ..Default::default() }
}

fn done(name: &str, outcome: &mortar_model::Result<Outcome>) -> Operation {
    let value = execute_response(outcome.as_ref()).encode_to_vec();
    let response = prost_types::Any { type_url: String::new(), value };
    let result = Some(operation::Result::Response(response));
    Operation { done: true, result, ..at(name, Stage::Completed) }
}

fn outcome(exit_code: i32) -> mortar_model::Result<Outcome> {
    Ok(Outcome {
        result: ActionResult { exit_code, ..Default::default() },
        cached: false,
        termination: Termination::Exited,
        message: String::new(),
        server_logs: vec![],
    })
}

async fn execute(remote: &Remote) -> (mortar_model::Result<Outcome>, Vec<Stage>) {
    let stages = Stages::default();
    let request = ExecuteRequest { action_digest: digest(b"action"), skip_cache_lookup: false, priority: 0 };
    let outcome = remote.execute(&context(), request, &stages).await;
    (outcome, stages.0.into_inner())
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_by_name() {
    let fake = Fake::default();
    let broke = || Some(Status::unavailable("broke"));
    fake.fail(
        "Execute",
        [Fault::Play(vec![at("op/1", Stage::CacheCheck), at("op/1", Stage::Queued)], broke())],
    );
    fake.fail(
        "WaitExecution",
        [
            Fault::Refuse(Status::unavailable("not yet")),
            Fault::Play(vec![at("op/1", Stage::Queued), at("op/1", Stage::Executing)], None),
            Fault::Play(vec![done("op/1", &outcome(3))], None),
        ],
    );
    let (outcome, stages) = execute(&fake.serve().await).await;
    assert_eq!(outcome.unwrap().result.exit_code, 3);
    assert_eq!(stages, [Stage::CacheCheck, Stage::Queued, Stage::Executing, Stage::Completed]);
    assert_eq!(fake.log()[..], ["Execute", "WaitExecution op/1", "WaitExecution op/1", "WaitExecution op/1"]);
}

#[tokio::test]
async fn a_forgotten_operation_is_executed_again() {
    let fake = Fake::default();
    fake.fail(
        "Execute",
        [
            Fault::Play(vec![at("op/1", Stage::Queued)], None),
            Fault::Play(vec![done("op/2", &outcome(0))], None),
        ],
    );
    fake.fail("WaitExecution", [Fault::Refuse(Status::not_found("no such operation"))]);
    let (outcome, _) = execute(&fake.serve().await).await;
    assert_eq!(outcome.unwrap().result.exit_code, 0);
    assert_eq!(fake.log()[..], ["Execute", "WaitExecution op/1", "Execute"]);
}

#[tokio::test]
async fn a_server_that_forgets_every_time_is_given_up() {
    let fake = Fake::default();
    fake.fail("Execute", (0..9).map(|_| Fault::Play(vec![at("op/1", Stage::Queued)], None)));
    fake.fail("WaitExecution", (0..9).map(|_| Fault::Refuse(Status::not_found("no such operation"))));
    let (outcome, _) = execute(&fake.serve().await).await;
    assert!(matches!(outcome.unwrap_err().kind(), Kind::Aborted { .. }));
    assert_eq!(fake.log().iter().filter(|call| *call == "Execute").count(), 4);
}

#[tokio::test]
async fn failures_of_the_execution_are_told_as_they_are() {
    let missing = Error::new(Kind::MissingBlobs { missing: vec![digest(b"input")] });
    for play in [
        Fault::Refuse(status::to_status(&missing)),
        Fault::Play(vec![done("op/1", &Err(Error::new(missing.kind().clone())))], None),
    ] {
        let fake = Fake::default();
        fake.fail("Execute", [play]);
        let (outcome, _) = execute(&fake.serve().await).await;
        assert_eq!(outcome.unwrap_err().kind(), missing.kind());
        assert_eq!(fake.log().len(), 1);
    }
}

#[tokio::test]
async fn a_command_that_timed_out_has_its_result() {
    let fake = Fake::default();
    let limit = Duration::from_secs(2);
    let metadata = ExecutionMetadata { virtual_execution_duration: Some(limit), ..Default::default() };
    let result = ActionResult { exit_code: 137, metadata, ..Default::default() };
    let timed_out = Outcome { result, termination: Termination::TimedOut { limit }, ..outcome(0).unwrap() };
    fake.fail("Execute", [Fault::Play(vec![done("op/1", &Ok(timed_out))], None)]);
    let (outcome, _) = execute(&fake.serve().await).await;
    let outcome = outcome.unwrap();
    assert_eq!((outcome.result.exit_code, outcome.termination), (137, Termination::TimedOut { limit }));
}

#[tokio::test]
async fn only_a_server_that_waits_for_inputs_is_told_that_they_follow() {
    for (offered, told) in [(Some(9_000), Some("a-session;750".to_owned())), (None, None)] {
        let fake = Fake::default();
        fake.0.lock().inputs_follow = offered;
        fake.fail("Execute", (0..2).map(|_| Fault::Play(vec![done("op/1", &outcome(0))], None)));
        let remote = fake.serve().await;
        assert_eq!(remote.takes_inputs_later(&context()).await.unwrap(), offered.is_some());
        let capabilities = remote.capabilities(&context()).await.unwrap();
        assert_eq!(capabilities.inputs_follow, offered.map(Duration::from_millis));
        let follow = InputsFollow::new("a-session", Duration::from_millis(750)).unwrap();
        let request =
            || ExecuteRequest { action_digest: digest(b"action"), skip_cache_lookup: false, priority: 0 };
        let context = Context { inputs_follow: Some(follow), ..context() };
        remote.execute(&context, request(), &()).await.unwrap();
        remote.execute(&crate::fake::context(), request(), &()).await.unwrap();
        assert_eq!(fake.0.lock().followed, [told, None]);
    }
}

#[tokio::test]
async fn contents_are_asked_for_and_come_along() {
    let fake = Fake::default();
    let file = OutputFile {
        path: "out".into(),
        digest: digest(b"text"),
        is_executable: false,
        contents: "text".into(),
        properties: None,
    };
    let made = Ok(Outcome {
        result: ActionResult { files: vec![file], stdout_raw: "said".into(), ..Default::default() },
        ..outcome(0).unwrap()
    });
    fake.fail("Execute", [Fault::Play(vec![done("op/1", &made)], None)]);
    let remote = fake.serve().await;
    let inline = Inline { stdout: true, stderr: false, files: vec!["out".into()] };
    let request = ExecuteRequest { action_digest: digest(b"action"), skip_cache_lookup: false, priority: 0 };
    let result = remote.execute_inline(&context(), request, &inline, &()).await.unwrap().result;
    assert_eq!((&result.files[0].contents[..], &result.stdout_raw[..]), (&b"text"[..], &b"said"[..]));
    assert_eq!(fake.0.lock().inline, [(true, false, vec!["out".to_owned()])]);
}
