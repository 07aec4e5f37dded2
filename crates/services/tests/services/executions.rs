//! Operations: stages, coming back, leaving.

use crate::support::{Server, digest, server, until};
use mortar_wire::{
    digest_to_wire,
    longrunning::{Operation, operation},
    reapi::{self, execution_client::ExecutionClient, execution_stage::Value as Stage},
};
use prost::Message;
use std::sync::atomic::Ordering;
use tonic::Streaming;

pub async fn execute(server: &Server, request: reapi::ExecuteRequest) -> Streaming<Operation> {
    let action_digest = Some(digest_to_wire(digest(b"action")));
    let request = reapi::ExecuteRequest { action_digest, ..request };
    ExecutionClient::new(server.channel.clone()).execute(request).await.unwrap().into_inner()
}

pub fn stage(operation: &Operation) -> Stage {
    let any = operation.metadata.clone().unwrap();
    assert!(any.type_url.ends_with("ExecuteOperationMetadata"));
    reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap().stage()
}

pub fn response(operation: &Operation) -> reapi::ExecuteResponse {
    let Some(operation::Result::Response(any)) = &operation.result else { panic!("{operation:?}") };
    assert!(any.type_url.ends_with("ExecuteResponse"));
    reapi::ExecuteResponse::decode(any.value.as_slice()).unwrap()
}

pub async fn last(mut stream: Streaming<Operation>) -> Operation {
    let mut last = None;
    while let Some(operation) = stream.message().await.unwrap() {
        last = Some(operation);
    }
    last.unwrap()
}

#[tokio::test]
async fn stages_are_told_and_the_last_message_holds_the_response() {
    let server = server().await;
    let mut stream = execute(&server, reapi::ExecuteRequest::default()).await;
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!((stage(&first), first.done), (Stage::Executing, false));
    server.executor.finish.notify_one();
    let end = last(stream).await;
    assert!(end.done && end.name == first.name);
    assert_eq!(stage(&end), Stage::Completed);
    assert_eq!(response(&end).status.unwrap_or_default().code, 0);
}

#[tokio::test]
async fn a_client_that_comes_back_finds_its_execution() {
    let server = server().await;
    let mut stream = execute(&server, reapi::ExecuteRequest::default()).await;
    let name = stream.message().await.unwrap().unwrap().name;
    drop(stream);
    let mut client = ExecutionClient::new(server.channel.clone());
    let request = reapi::WaitExecutionRequest { name };
    let again = client.wait_execution(request.clone()).await.unwrap().into_inner();
    server.executor.finish.notify_one();
    assert!(last(again).await.done);
    // And also after the end.
    assert!(last(client.wait_execution(request).await.unwrap().into_inner()).await.done);
    assert_eq!(server.executor.left.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_execution_that_nobody_watches_is_dropped() {
    let server = server().await;
    let mut stream = execute(&server, reapi::ExecuteRequest::default()).await;
    stream.message().await.unwrap().unwrap();
    drop(stream);
    until("the execution is dropped", || server.executor.left.load(Ordering::SeqCst) == 1).await;
    server.assert_alive().await;
}
