//! Operations that are listed, looked up, waited for and cancelled.

use crate::support::{Server, digest, server, until};
use mortar_model::RequestMetadata;
use mortar_wire::{
    digest_to_wire,
    longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest, operation,
        operations_client::OperationsClient,
    },
    metadata,
    reapi::{self, execution_client::ExecutionClient, execution_stage::Value as Stage},
};
use prost::Message;
use std::sync::atomic::Ordering;
use tonic::{Code, Request, Streaming, transport::Channel};

fn client(server: &Server) -> OperationsClient<Channel> {
    OperationsClient::new(server.channel.clone())
}

/// Begins an execution, of an action of its own; its stream, and its name.
async fn execute(server: &Server, instance: &str) -> (Streaming<Operation>, String) {
    let began = server.executor.begun.load(Ordering::SeqCst);
    let message = reapi::ExecuteRequest {
        instance_name: instance.into(),
        action_digest: Some(digest_to_wire(digest(format!("action {began}").as_bytes()))),
        ..Default::default()
    };
    let mut request = Request::new(message);
    let told = RequestMetadata { action_mnemonic: "Nap".into(), ..RequestMetadata::default() };
    metadata::to_headers(&told, request.metadata_mut());
    let mut stream =
        ExecutionClient::new(server.channel.clone()).execute(request).await.unwrap().into_inner();
    let name = stream.message().await.unwrap().unwrap().name;
    (stream, name)
}

async fn list(server: &Server, request: ListOperationsRequest) -> ListOperationsResponse {
    client(server).list_operations(request).await.unwrap().into_inner()
}

async fn names(server: &Server, parent: &str) -> Vec<String> {
    let request = ListOperationsRequest { name: parent.into(), ..Default::default() };
    list(server, request).await.operations.into_iter().map(|operation| operation.name).collect()
}

async fn get(server: &Server, name: &str) -> Result<Operation, tonic::Status> {
    let request = GetOperationRequest { name: name.into() };
    client(server).get_operation(request).await.map(tonic::Response::into_inner)
}

async fn cancel(server: &Server, name: &str) -> Result<(), tonic::Status> {
    let request = CancelOperationRequest { name: name.into() };
    client(server).cancel_operation(request).await.map(tonic::Response::into_inner)
}

fn told(operation: &Operation) -> reapi::ExecuteOperationMetadata {
    let any = operation.metadata.as_ref().unwrap();
    reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap()
}

/// The code of the response.
fn code(operation: &Operation) -> i32 {
    let Some(operation::Result::Response(any)) = &operation.result else { panic!("{operation:?}") };
    let response = reapi::ExecuteResponse::decode(any.value.as_slice()).unwrap();
    response.status.unwrap_or_default().code
}

async fn last(stream: &mut Streaming<Operation>) -> Operation {
    let mut last = None;
    while let Some(operation) = stream.message().await.unwrap() {
        last = Some(operation);
    }
    last.unwrap()
}

#[tokio::test]
async fn what_is_not_over_is_listed_by_instance_and_by_page() {
    let server = server().await;
    let (_first, first) = execute(&server, "").await;
    let (_second, second) = execute(&server, "").await;
    let (_third, third) = execute(&server, "team").await;
    let mut here = vec![first.clone(), second];
    here.sort();
    assert_eq!(names(&server, "operations").await, here);
    assert_eq!(names(&server, "team/operations").await, [third.as_str()]);
    assert_eq!(names(&server, "nobody/operations").await, [""; 0]);
    let all = [here, vec![third]].concat();
    assert_eq!(names(&server, "").await, all);

    let (mut paged, mut page_token) = (Vec::new(), String::new());
    for _ in 0..3 {
        let page =
            list(&server, ListOperationsRequest { page_size: 1, page_token, ..Default::default() }).await;
        assert_eq!(page.operations.len(), 1);
        paged.extend(page.operations.into_iter().map(|operation| operation.name));
        page_token = page.next_page_token;
    }
    assert_eq!((paged, page_token.as_str()), (all, ""));

    let one = list(&server, ListOperationsRequest { page_size: 1, ..Default::default() }).await;
    let metadata = told(&one.operations[0]);
    assert_eq!(metadata.stage(), Stage::Executing);
    let partial = metadata.partial_execution_metadata.unwrap();
    let request = partial.auxiliary_metadata.iter().find(|any| any.type_url.ends_with(".RequestMetadata"));
    let request = reapi::RequestMetadata::decode(request.unwrap().value.as_slice()).unwrap();
    assert_eq!(request.action_mnemonic, "Nap");
}

#[tokio::test]
async fn one_is_looked_up_while_it_runs_and_after_its_end() {
    let server = server().await;
    let (mut stream, name) = execute(&server, "").await;
    let runs = get(&server, &name).await.unwrap();
    assert_eq!(
        (runs.name.as_str(), runs.done, told(&runs).stage()),
        (name.as_str(), false, Stage::Executing)
    );
    server.executor.finish.notify_one();
    last(&mut stream).await;
    let over = get(&server, &name).await.unwrap();
    assert_eq!((over.done, told(&over).stage(), code(&over)), (true, Stage::Completed, 0));
    assert_eq!(names(&server, "").await, [""; 0]);
    let done = ListOperationsRequest { filter: "done=true".into(), ..Default::default() };
    let done = list(&server, done).await.operations;
    assert_eq!(done.iter().map(|operation| operation.name.as_str()).collect::<Vec<_>>(), [name.as_str()]);
    assert_eq!(get(&server, "operations/none").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn looking_keeps_nothing_alive() {
    let server = server().await;
    let (stream, name) = execute(&server, "").await;
    drop(stream);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !get(&server, &name).await.unwrap().done {
        assert!(std::time::Instant::now() < deadline, "it is not dropped");
    }
    assert_eq!(server.executor.left.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cancelled_one_ends_for_all_who_watch_it() {
    let server = server().await;
    let (mut stream, name) = execute(&server, "").await;
    let (_other, other) = execute(&server, "").await;
    cancel(&server, &name).await.unwrap();
    let end = last(&mut stream).await;
    assert_eq!((end.done, code(&end)), (true, Code::Cancelled as i32));
    until("the execution is dropped", || server.executor.left.load(Ordering::SeqCst) == 1).await;
    assert_eq!(names(&server, "").await, [other]);
    assert_eq!(cancel(&server, "operations/none").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_over_stays_as_it_is() {
    let server = server().await;
    let (mut stream, name) = execute(&server, "").await;
    server.executor.finish.notify_one();
    last(&mut stream).await;
    cancel(&server, &name).await.unwrap();
    assert_eq!(code(&get(&server, &name).await.unwrap()), 0);
}

#[tokio::test]
async fn a_wait_ends_with_its_time_or_with_the_execution() {
    let server = server().await;
    let (_stream, name) = execute(&server, "").await;
    let at_once = Some(prost_types::Duration::default());
    let request = WaitOperationRequest { name: name.clone(), timeout: at_once };
    assert!(!client(&server).wait_operation(request).await.unwrap().into_inner().done);
    server.executor.finish.notify_one();
    let request = WaitOperationRequest { name, timeout: None };
    let end = client(&server).wait_operation(request).await.unwrap().into_inner();
    assert_eq!((end.done, code(&end)), (true, 0));
}

#[tokio::test]
async fn what_cannot_be_done_is_refused() {
    let server = server().await;
    for (request, needle) in [
        (ListOperationsRequest { filter: "done=maybe".into(), ..Default::default() }, "`done=maybe`"),
        (ListOperationsRequest { page_size: -1, ..Default::default() }, "the page size is -1"),
        (ListOperationsRequest { name: "team".into(), ..Default::default() }, "`INSTANCE/operations`"),
    ] {
        let refused = client(&server).list_operations(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(needle), "{refused}");
    }
    let (_stream, name) = execute(&server, "").await;
    let refused = client(&server).delete_operation(DeleteOperationRequest { name }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("CancelOperation"), "{refused}");
}
