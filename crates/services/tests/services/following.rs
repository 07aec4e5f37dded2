//! Inputs that follow the call, as far as it is a matter of the protocol: what is offered, what is understood, and how
//! the answer begins.

use crate::{
    executions::{last, response},
    support::{Server, digest, following_server, server},
};
use mortar_model::{Digest, DigestFunction, InputsFollow};
use mortar_wire::{
    digest_to_wire, inputs_follow,
    longrunning::Operation,
    reapi::{self, capabilities_client::CapabilitiesClient, execution_client::ExecutionClient},
};
use std::time::Duration;
use tonic::{Code, Request, Status, Streaming};

async fn offer(server: &Server) -> Option<Duration> {
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let answer = client.get_capabilities(reapi::GetCapabilitiesRequest::default()).await.unwrap();
    inputs_follow::offer_from_headers(answer.metadata())
}

async fn execute(
    server: &Server,
    action: Digest,
    header: Option<&str>,
) -> Result<Streaming<Operation>, Status> {
    let action_digest = Some(digest_to_wire(action));
    let mut request = Request::new(reapi::ExecuteRequest { action_digest, ..Default::default() });
    if let Some(header) = header {
        request.metadata_mut().insert(inputs_follow::HEADER, header.parse().unwrap());
    }
    let mut client = ExecutionClient::new(server.channel.clone());
    client.execute(request).await.map(tonic::Response::into_inner)
}

/// What the executor was told when this header came.
async fn understood(server: &Server, header: Option<&str>) -> Result<Option<InputsFollow>, Status> {
    let stream = execute(server, digest(b"action"), header).await?;
    server.executor.finish.notify_one();
    assert!(last(stream).await.done);
    Ok(server.executor.followed.lock().take())
}

#[tokio::test]
async fn what_is_offered_is_understood() {
    let server = following_server().await;
    assert_eq!(offer(&server).await, Some(Duration::from_secs(1)));
    for (header, session, millis) in [
        ("a;250", "a", 250),
        ("0f8e-_Z;0", "0f8e-_Z", 0),
        ("a;1000", "a", 1_000),
        // No longer than was offered.
        ("a;1001", "a", 1_000),
        ("a;18446744073709551615", "a", 1_000),
    ] {
        let follow = understood(&server, Some(header)).await.unwrap().unwrap();
        assert_eq!((follow.session(), follow.patience), (session, Duration::from_millis(millis)), "{header}");
    }
    assert_eq!(understood(&server, None).await.unwrap(), None);
    for header in ["", "a", "a;", ";1", "a b;1", "a;x", "a;-1", "a;1;1"] {
        let status = understood(&server, Some(header)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "`{header}`: {status}");
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn who_offers_nothing_does_not_know_the_header() {
    let server = server().await;
    assert_eq!(offer(&server).await, None);
    for header in ["a;250", "", "what is this"] {
        assert_eq!(understood(&server, Some(header)).await.unwrap(), None, "{header}");
    }
}

#[tokio::test]
async fn what_is_missing_is_told_in_the_response_where_inputs_follow() {
    let server = following_server().await;
    let lacking = Digest::new(DigestFunction::Sha256, [1; 32], 404);
    let status = execute(&server, lacking, None).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let mut stream = execute(&server, lacking, Some("a;250")).await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    assert!(!first.name.is_empty());
    let end = if first.done { first } else { last(stream).await };
    assert_eq!(response(&end).status.unwrap().code, Code::FailedPrecondition as i32);
}
