//! Scenarios of the action cache and of execution.

use super::{
    blobs::keep,
    load::{Done, Failure, Load, Worker},
    target::{Client, Target, describe},
};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use mortar_model::{
    Action, ActionResult, Command, Digest, DigestFunction, Directory, OutputFile, Platform, action::Outputs,
};
use mortar_wire::{
    digest_to_wire, encode_action, encode_command, encode_directory, longrunning::operation, reapi,
    result_to_wire,
};
use prost::Message;
use std::{sync::Arc, time::Duration};
use tonic::{Code, Status};

/// Results that are kept to be looked up.
const RESULTS: usize = 256;
/// The size of the file that results name.
const OUTPUT: usize = 4 << 10;

type Prepared = Result<Arc<dyn Load>>;

pub(super) struct Put {
    request: reapi::UpdateActionResultRequest,
    function: DigestFunction,
}

/// A result with one output file, for a new action each time.
pub(super) async fn put(target: &Target) -> Prepared {
    Ok(Arc::new(prepare_put(target.client(0), target).await?))
}

/// `client` writes the file that the results name.
pub(super) async fn prepare_put(client: Client, target: &Target) -> Result<Put> {
    let function = target.settings.function;
    let output = target.mint(OUTPUT).blob(&mut super::content::Random::new()).into_bytes();
    let digests = keep(client, target, vec![output]).await?;
    let files = digests.into_iter().map(|digest| OutputFile {
        path: "out".into(),
        digest,
        is_executable: false,
        contents: Bytes::new(),
        properties: None,
    });
    let result = ActionResult { files: files.collect(), ..ActionResult::default() };
    let request = reapi::UpdateActionResultRequest {
        instance_name: target.instance(),
        action_digest: None,
        action_result: Some(result_to_wire(&result)),
        results_cache_policy: None,
        digest_function: target.function(),
    };
    Ok(Put { request, function })
}

impl Put {
    fn request(&self, action: Digest) -> reapi::UpdateActionResultRequest {
        let mut request = self.request.clone();
        request.action_digest = Some(digest_to_wire(action));
        request
    }
}

#[tonic::async_trait]
impl Load for Put {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let request = self.request(worker.random.digest(self.function));
        worker.start_clock();
        worker.client.actions.update_action_result(request).await?;
        Ok(Done { items: 1, bytes: 0 })
    }
}

pub(super) struct Get(Vec<reapi::GetActionResultRequest>);

/// Look-ups of results that are there.
pub(super) async fn get(target: &Target) -> Prepared {
    Ok(Arc::new(prepare_get(target).await?))
}

pub(super) async fn prepare_get(target: &Target) -> Result<Get> {
    let (put, mut random) = (prepare_put(target.filler(0), target).await?, super::content::Random::new());
    let mut requests = Vec::with_capacity(RESULTS);
    for number in 0..RESULTS {
        let action = random.digest(put.function);
        let kept = target.filler(number).actions.update_action_result(put.request(action)).await;
        kept.map_err(|status| anyhow!(describe(&status))).context("writing what is to be looked up")?;
        requests.push(get_request(target, action));
    }
    Ok(Get(requests))
}

fn get_request(target: &Target, action: Digest) -> reapi::GetActionResultRequest {
    reapi::GetActionResultRequest {
        instance_name: target.instance(),
        action_digest: Some(digest_to_wire(action)),
        digest_function: target.function(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl Load for Get {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let request = self.0[worker.random.below(self.0.len())].clone();
        worker.client.actions.get_action_result(request).await?;
        Ok(Done { items: 1, bytes: 0 })
    }
}

/// Look-ups of results that were written just before, or that nobody has.
struct GetNew {
    put: Option<(Put, Client)>,
    request: reapi::GetActionResultRequest,
    function: DigestFunction,
}

/// A look-up of a result that was written just before.
pub(super) async fn get_new(target: &Target) -> Prepared {
    let put = Some((prepare_put(target.filler(0), target).await?, target.filler(0)));
    Ok(Arc::new(GetNew { put, ..get_none(target) }))
}

/// A look-up of a result that nobody has.
pub(super) async fn get_missing(target: &Target) -> Prepared {
    Ok(Arc::new(get_none(target)))
}

fn get_none(target: &Target) -> GetNew {
    let function = target.settings.function;
    let request = get_request(target, Digest::empty(function));
    GetNew { put: None, request, function }
}

#[tonic::async_trait]
impl Load for GetNew {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let action = worker.random.digest(self.function);
        if let Some((put, filler)) = &self.put {
            filler.actions.clone().update_action_result(put.request(action)).await?;
        }
        let request = reapi::GetActionResultRequest {
            action_digest: Some(digest_to_wire(action)),
            ..self.request.clone()
        };
        worker.start_clock();
        match worker.client.actions.get_action_result(request).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound && self.put.is_none() => {}
            Err(status) => return Err(status.into()),
        }
        Ok(Done { items: 1, bytes: 0 })
    }
}

struct Execute(Vec<reapi::ExecuteRequest>);

/// `/bin/true` without inputs, an action for each worker, never cached, so that each call runs it.
pub(super) async fn execute(target: &Target) -> Prepared {
    let function = target.settings.function;
    let mut blobs = Vec::new();
    let mut requests = Vec::new();
    for worker in 0..target.settings.concurrency {
        let (command, action) = no_op(target, worker);
        requests.push(reapi::ExecuteRequest {
            instance_name: target.instance(),
            skip_cache_lookup: true,
            action_digest: Some(digest_to_wire(Digest::of(function, &action))),
            digest_function: target.function(),
            ..Default::default()
        });
        blobs.extend([command, action]);
    }
    // A hundred or so at a time stay below any limit.
    for part in blobs.chunks(100) {
        keep(target.client(0), target, part.to_vec()).await?;
    }
    Ok(Arc::new(Execute(requests)))
}

/// The Command and the Action message of a worker.
fn no_op(target: &Target, worker: usize) -> (Bytes, Bytes) {
    messages(target, vec!["/bin/true".into()], worker.to_string(), Duration::from_secs(60))
}

/// Those of an action that sleeps for an hour.
pub(super) fn sleeper(target: &Target, which: String) -> (Bytes, Bytes) {
    messages(target, vec!["/bin/sleep".into(), "3600".into()], which, Duration::from_secs(7_200))
}

fn messages(target: &Target, arguments: Vec<String>, which: String, timeout: Duration) -> (Bytes, Bytes) {
    let function = target.settings.function;
    let platform = match target.settings.exec_properties.as_slice() {
        [] => None,
        properties => Some(Platform::new(properties.iter().cloned())),
    };
    let command = encode_command(&Command {
        arguments,
        environment: vec![("MORTAR_BENCH_WORKER".into(), which)],
        outputs: Outputs::default(),
        platform: platform.clone(),
        ..Command::default()
    });
    let action = encode_action(&Action {
        command_digest: Digest::of(function, &command),
        input_root_digest: Digest::of(function, &encode_directory(&Directory::default())),
        timeout: Some(timeout),
        do_not_cache: true,
        platform,
    });
    (command, action)
}

#[tonic::async_trait]
impl Load for Execute {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let request = self.0[worker.number % self.0.len()].clone();
        let mut operations = worker.client.execution.execute(request).await?.into_inner();
        while let Some(operation) = operations.message().await? {
            if operation.done {
                return Ok(finished(operation.result).map(|()| Done { items: 1, bytes: 0 })?);
            }
        }
        Err(Status::aborted("the stream ended before the operation").into())
    }
}

/// That the action ran and succeeded.
fn finished(result: Option<operation::Result>) -> Result<(), Status> {
    let response = match result {
        Some(operation::Result::Response(response)) => response,
        Some(operation::Result::Error(error)) => return Err(Status::new(error.code.into(), error.message)),
        None => return Err(Status::internal("the operation ended without a result")),
    };
    let response = reapi::ExecuteResponse::decode(response.value.as_slice())
        .map_err(|error| Status::internal(format!("the operation's response is malformed: {error}")))?;
    let status = response.status.unwrap_or_default();
    if status.code != 0 {
        return Err(Status::new(Code::from_i32(status.code), status.message));
    }
    match response.result.map(|result| result.exit_code) {
        Some(0) if !response.cached_result => Ok(()),
        Some(0) => Err(Status::internal("the result came from the cache")),
        code => Err(Status::internal(format!("the action ended with exit code {code:?}; expected 0"))),
    }
}
