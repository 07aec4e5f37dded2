//! gRPC health and reflection: what is served, for load balancers and for people with a generic client.

use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::{
    pb::{v1, v1alpha},
    server::Builder,
};

/// The services that answer under their names.
const SERVED: [&str; 7] = [
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "build.bazel.remote.execution.v2.Execution",
    "google.bytestream.ByteStream",
    "google.longrunning.Operations",
    "grpc.health.v1.Health",
];

/// `grpc.health.v1`: the whole server, and each service by name, is serving for as long as it answers.
pub(crate) fn health() -> HealthServer<impl Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        for name in SERVED {
            reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
    });
    service
}

/// Reflection as clients of today ask for it.
pub(crate) fn reflection()
-> v1::server_reflection_server::ServerReflectionServer<impl v1::server_reflection_server::ServerReflection> {
    descriptions().build_v1().expect(WELL_FORMED)
}

/// Reflection as older clients ask for it.
pub(crate) fn reflection_alpha() -> v1alpha::server_reflection_server::ServerReflectionServer<
    impl v1alpha::server_reflection_server::ServerReflection,
> {
    descriptions().build_v1alpha().expect(WELL_FORMED)
}

const WELL_FORMED: &str = "the descriptors were made by the compiler of the same protocols";

fn descriptions() -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(mortar_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    SERVED.into_iter().fold(builder, Builder::with_service_name)
}
