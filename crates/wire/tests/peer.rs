//! Our text of the protocols against independently generated bindings: what we encode, they decode, with nothing unknown
//! and nothing lost, and their encoding of it is ours to the byte.

use bazel_remote_apis::{
    build::bazel::remote::execution::v2 as theirs,
    google::{bytestream as their_stream, longrunning as their_operations},
};
use mortar_wire::{bytestream as our_stream, longrunning as our_operations, reapi as ours, rpc, semver};
use prost::Message;

fn same<Ours: Message + std::fmt::Debug, Theirs: Message + std::fmt::Debug + Default>(message: &Ours) {
    let bytes = message.encode_to_vec();
    assert!(!bytes.is_empty());
    let decoded = Theirs::decode(bytes.as_slice()).expect("they decode what we encode");
    assert_eq!(decoded.encode_to_vec(), bytes, "{message:?} became {decoded:?}");
}

fn digest() -> Option<ours::Digest> {
    Some(ours::Digest { hash: "abc".into(), size_bytes: 3 })
}

fn time() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 7, nanos: 9 })
}

fn duration() -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 7, nanos: 9 })
}

fn properties() -> Option<ours::NodeProperties> {
    let properties = vec![ours::NodeProperty { name: "n".into(), value: "v".into() }];
    Some(ours::NodeProperties { properties, mtime: time(), unix_mode: Some(0o755) })
}

fn platform() -> Option<ours::Platform> {
    Some(ours::Platform {
        properties: vec![ours::platform::Property { name: "OS".into(), value: "Linux".into() }],
    })
}

fn status() -> Option<rpc::Status> {
    let details = vec![prost_types::Any { type_url: "t".into(), value: vec![1] }];
    Some(rpc::Status { code: 5, message: "m".into(), details })
}

fn directory() -> ours::Directory {
    let file = ours::FileNode {
        name: "f".into(),
        digest: digest(),
        is_executable: true,
        node_properties: properties(),
    };
    let link = ours::SymlinkNode { name: "l".into(), target: "t".into(), node_properties: properties() };
    ours::Directory {
        files: vec![file],
        directories: vec![ours::DirectoryNode { name: "d".into(), digest: digest() }],
        symlinks: vec![link],
        node_properties: properties(),
    }
}

fn metadata() -> ours::ExecutedActionMetadata {
    ours::ExecutedActionMetadata {
        worker: "w".into(),
        queued_timestamp: time(),
        worker_start_timestamp: time(),
        worker_completed_timestamp: time(),
        input_fetch_start_timestamp: time(),
        input_fetch_completed_timestamp: time(),
        execution_start_timestamp: time(),
        execution_completed_timestamp: time(),
        virtual_execution_duration: duration(),
        output_upload_start_timestamp: time(),
        output_upload_completed_timestamp: time(),
        auxiliary_metadata: vec![prost_types::Any { type_url: "t".into(), value: vec![1] }],
    }
}

#[allow(deprecated)]
fn result() -> ours::ActionResult {
    let link = || ours::OutputSymlink { path: "p".into(), target: "t".into(), node_properties: properties() };
    ours::ActionResult {
        output_files: vec![ours::OutputFile {
            path: "p".into(),
            digest: digest(),
            is_executable: true,
            contents: "c".into(),
            node_properties: properties(),
        }],
        output_file_symlinks: vec![link()],
        output_symlinks: vec![link()],
        output_directories: vec![ours::OutputDirectory {
            path: "p".into(),
            tree_digest: digest(),
            is_topologically_sorted: true,
            root_directory_digest: digest(),
        }],
        output_directory_symlinks: vec![link()],
        exit_code: 3,
        stdout_raw: "o".into(),
        stdout_digest: digest(),
        stderr_raw: "e".into(),
        stderr_digest: digest(),
        execution_metadata: Some(metadata()),
    }
}

#[test]
#[allow(deprecated)]
fn actions() {
    same::<_, theirs::Action>(&ours::Action {
        command_digest: digest(),
        input_root_digest: digest(),
        timeout: duration(),
        do_not_cache: true,
        salt: "s".into(),
        platform: platform(),
    });
    same::<_, theirs::Command>(&ours::Command {
        arguments: vec!["a".into()],
        environment_variables: vec![ours::command::EnvironmentVariable {
            name: "n".into(),
            value: "v".into(),
        }],
        output_files: vec!["f".into()],
        output_directories: vec!["d".into()],
        output_paths: vec!["p".into()],
        platform: platform(),
        working_directory: "w".into(),
        output_node_properties: vec!["mtime".into()],
        output_directory_format: 2,
    });
    same::<_, theirs::Tree>(&ours::Tree { root: Some(directory()), children: vec![directory()] });
    same::<_, theirs::ActionResult>(&result());
}

#[test]
fn executions() {
    same::<_, theirs::ExecuteRequest>(&ours::ExecuteRequest {
        instance_name: "i".into(),
        skip_cache_lookup: true,
        action_digest: digest(),
        execution_policy: Some(ours::ExecutionPolicy { priority: 1 }),
        results_cache_policy: Some(ours::ResultsCachePolicy { priority: 1 }),
        digest_function: 9,
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["f".into()],
    });
    let log = ours::LogFile { digest: digest(), human_readable: true };
    same::<_, theirs::ExecuteResponse>(&ours::ExecuteResponse {
        result: Some(result()),
        cached_result: true,
        status: status(),
        server_logs: [("l".to_owned(), log)].into(),
        message: "m".into(),
    });
    same::<_, theirs::ExecuteOperationMetadata>(&ours::ExecuteOperationMetadata {
        stage: 3,
        action_digest: digest(),
        stdout_stream_name: "o".into(),
        stderr_stream_name: "e".into(),
        partial_execution_metadata: Some(metadata()),
        digest_function: 9,
    });
    same::<_, theirs::WaitExecutionRequest>(&ours::WaitExecutionRequest { name: "n".into() });
    same::<_, their_operations::Operation>(&our_operations::Operation {
        name: "n".into(),
        metadata: Some(prost_types::Any { type_url: "t".into(), value: vec![1] }),
        done: true,
        result: Some(our_operations::operation::Result::Response(prost_types::Any {
            type_url: "t".into(),
            value: vec![1],
        })),
    });
}

#[test]
fn blobs() {
    same::<_, theirs::FindMissingBlobsRequest>(&ours::FindMissingBlobsRequest {
        instance_name: "i".into(),
        blob_digests: vec![digest().unwrap()],
        digest_function: 9,
    });
    same::<_, theirs::BatchUpdateBlobsRequest>(&ours::BatchUpdateBlobsRequest {
        instance_name: "i".into(),
        requests: vec![ours::batch_update_blobs_request::Request {
            digest: digest(),
            data: "d".into(),
            compressor: 1,
        }],
        digest_function: 9,
    });
    same::<_, theirs::BatchUpdateBlobsResponse>(&ours::BatchUpdateBlobsResponse {
        responses: vec![ours::batch_update_blobs_response::Response { digest: digest(), status: status() }],
    });
    same::<_, theirs::BatchReadBlobsRequest>(&ours::BatchReadBlobsRequest {
        instance_name: "i".into(),
        digests: vec![digest().unwrap()],
        acceptable_compressors: vec![1],
        digest_function: 9,
    });
    same::<_, theirs::BatchReadBlobsResponse>(&ours::BatchReadBlobsResponse {
        responses: vec![ours::batch_read_blobs_response::Response {
            digest: digest(),
            data: "d".into(),
            compressor: 1,
            status: status(),
        }],
    });
    same::<_, theirs::GetTreeRequest>(&ours::GetTreeRequest {
        instance_name: "i".into(),
        root_digest: digest(),
        page_size: 1,
        page_token: "t".into(),
        digest_function: 9,
    });
    same::<_, theirs::GetTreeResponse>(&ours::GetTreeResponse {
        directories: vec![directory()],
        next_page_token: "t".into(),
    });
    same::<_, their_stream::ReadRequest>(&our_stream::ReadRequest {
        resource_name: "r".into(),
        read_offset: 1,
        read_limit: 2,
    });
    same::<_, their_stream::ReadResponse>(&our_stream::ReadResponse { data: "d".into() });
    same::<_, their_stream::WriteRequest>(&our_stream::WriteRequest {
        resource_name: "r".into(),
        write_offset: 1,
        finish_write: true,
        data: "d".into(),
    });
    same::<_, their_stream::WriteResponse>(&our_stream::WriteResponse { committed_size: 1 });
    same::<_, their_stream::QueryWriteStatusResponse>(&our_stream::QueryWriteStatusResponse {
        committed_size: 1,
        complete: true,
    });
}

#[test]
fn look_ups_and_capabilities() {
    same::<_, theirs::GetActionResultRequest>(&ours::GetActionResultRequest {
        instance_name: "i".into(),
        action_digest: digest(),
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["f".into()],
        digest_function: 9,
    });
    same::<_, theirs::UpdateActionResultRequest>(&ours::UpdateActionResultRequest {
        instance_name: "i".into(),
        action_digest: digest(),
        action_result: Some(result()),
        results_cache_policy: Some(ours::ResultsCachePolicy { priority: 1 }),
        digest_function: 9,
    });
    let priorities = ours::PriorityCapabilities {
        priorities: vec![ours::priority_capabilities::PriorityRange { min_priority: 1, max_priority: 2 }],
    };
    let version = Some(semver::SemVer { major: 2, minor: 1, patch: 3, prerelease: "p".into() });
    same::<_, theirs::ServerCapabilities>(&ours::ServerCapabilities {
        cache_capabilities: Some(ours::CacheCapabilities {
            digest_functions: vec![1, 9],
            action_cache_update_capabilities: Some(ours::ActionCacheUpdateCapabilities {
                update_enabled: true,
            }),
            cache_priority_capabilities: Some(priorities.clone()),
            max_batch_total_size_bytes: 1,
            symlink_absolute_path_strategy: 1,
            supported_compressors: vec![1],
            supported_batch_update_compressors: vec![1],
            max_cas_blob_size_bytes: 1,
            split_blob_support: true,
            splice_blob_support: true,
            fast_cdc_2020_params: Some(ours::FastCdc2020Params { avg_chunk_size_bytes: 1, seed: 2 }),
            rep_max_cdc_params: Some(ours::RepMaxCdcParams {
                min_chunk_size_bytes: 1,
                horizon_size_bytes: 2,
            }),
        }),
        execution_capabilities: Some(ours::ExecutionCapabilities {
            digest_function: 1,
            exec_enabled: true,
            execution_priority_capabilities: Some(priorities),
            supported_node_properties: vec!["mtime".into()],
            digest_functions: vec![1, 9],
        }),
        deprecated_api_version: version.clone(),
        low_api_version: version.clone(),
        high_api_version: version,
    });
    same::<_, theirs::RequestMetadata>(&ours::RequestMetadata {
        tool_details: Some(ours::ToolDetails { tool_name: "t".into(), tool_version: "v".into() }),
        action_id: "a".into(),
        tool_invocation_id: "i".into(),
        correlated_invocations_id: "c".into(),
        action_mnemonic: "m".into(),
        target_id: "t".into(),
        configuration_id: "c".into(),
    });
}
