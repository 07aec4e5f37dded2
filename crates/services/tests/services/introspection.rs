//! Health and reflection: what load balancers and generic clients ask.

use crate::support::server;
use mortar_wire::reapi::{self, capabilities_client::CapabilitiesClient};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const CAPABILITIES: &str = "build.bazel.remote.execution.v2.Capabilities";

#[tokio::test]
async fn health_of_the_server_and_of_each_service() {
    let server = server().await;
    let mut client = HealthClient::new(server.channel.clone());
    for service in ["", CAPABILITIES, "google.bytestream.ByteStream"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "nobody".into() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_what_answers_and_nothing_else() {
    let server = server().await;
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(CAPABILITIES.into())),
    ];
    let mut answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = next().await else { panic!("no list") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == CAPABILITIES), "{names:?}");
    assert!(names.iter().any(|name| name == "google.longrunning.Operations"), "{names:?}");
    assert!(!names.iter().any(|name| name == "mortar.admin.v1.Admin"), "{names:?}");
    assert!(matches!(next().await, MessageResponse::FileDescriptorResponse(_)));
}

#[tokio::test]
async fn capabilities_are_told_for_every_instance() {
    let server = server().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let request = reapi::GetCapabilitiesRequest { instance_name: "team/one".into() };
    let told = client.get_capabilities(request).await.unwrap().into_inner();
    let (low, high) = (told.low_api_version.unwrap(), told.high_api_version.unwrap());
    assert_eq!((low.major, low.minor, high.major, high.minor), (2, 0, 2, 13));
    let cache = told.cache_capabilities.unwrap();
    assert_eq!(cache.max_batch_total_size_bytes, 4 << 20);
    assert!(cache.supported_compressors.is_empty());
    assert!(told.execution_capabilities.unwrap().exec_enabled);
}
