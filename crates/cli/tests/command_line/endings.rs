//! How an action ended that did not end well, as a client is told: by a signal, for want of memory and by its time limit are
//! three different things, and what was written until then is kept.

use crate::{
    LIMIT, MORTAR,
    action::{client, execute, marker, put, upload},
};
use mortar_model::{Action, Command, Directory, action::Outputs};
use mortar_remote::Remote;
use mortar_testkit::mortar::Mortar;
use mortar_wire::{
    digest_to_wire, encode_action, encode_command, encode_directory,
    longrunning::operation::Result as End,
    reapi::{self, execution_client::ExecutionClient},
};
use prost::Message;
use std::time::Duration;
use tonic::{Code, transport::Endpoint};

/// The response to an action that says so, makes an output and does this.
async fn response(server: &Mortar, remote: &Remote, deed: &str) -> reapi::ExecuteResponse {
    let command = Command {
        arguments: vec!["/bin/sh".into(), "-c".into(), format!("echo begun; echo part > part; {deed}")],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        outputs: Outputs::Paths(vec!["part".into()]),
        ..Command::default()
    };
    let action = Action {
        command_digest: put(remote, encode_command(&command)).await,
        input_root_digest: put(remote, encode_directory(&Directory::default())).await,
        timeout: Some(Duration::from_secs(4)),
        do_not_cache: true,
        platform: None,
    };
    let action_digest = Some(digest_to_wire(put(remote, encode_action(&action)).await));
    let channel =
        Endpoint::from_shared(format!("http://{}", server.address())).unwrap().connect().await.unwrap();
    let request = reapi::ExecuteRequest { action_digest, inline_stdout: true, ..Default::default() };
    let mut operations = ExecutionClient::new(channel).execute(request).await.unwrap().into_inner();
    while let Some(operation) = operations.message().await.unwrap() {
        if let Some(End::Response(any)) = operation.result {
            return reapi::ExecuteResponse::decode(any.value.as_slice()).unwrap();
        }
    }
    panic!("it ended without a response");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_end_is_told_from_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--slots", "1", "--action-memory", "64MiB"];
    let server = Mortar::start(MORTAR, "up", &directory.path().join("data"), &flags).unwrap();
    let remote = client(&server.grpc());
    let memory = "exec python3 -c 'x = bytearray(200 << 20); print(len(x))'";
    // Where no control group can limit memory, a process is refused more of it, and ends as it likes.
    let without_groups = server.log().unwrap().contains("no control group can limit actions in: memory");
    let out_of_memory = if without_groups { "" } else { "out of memory" };
    for (deed, code, told) in [
        ("kill -SEGV $$", Code::Ok, "signal 11"),
        (memory, Code::Ok, out_of_memory),
        ("sleep 100000", Code::DeadlineExceeded, "time limit of 4 s"),
        ("exit 3", Code::Ok, ""),
    ] {
        let response = response(&server, &remote, deed).await;
        let status = response.status.clone().unwrap_or_default();
        assert_eq!(status.code, code as i32, "{deed}: {response:?}");
        assert_eq!(response.message.is_empty(), told.is_empty(), "{deed}: {response:?}");
        assert!(response.message.contains(told), "{deed}: {response:?}");
        assert!(response.server_logs.is_empty(), "{deed}: nothing was wrong with the infrastructure");
        let result = response.result.unwrap();
        assert_ne!(result.exit_code, 0, "{deed}");
        assert_eq!(&result.stdout_raw[..], b"begun\n", "{deed}");
        let outputs: Vec<_> = result.output_files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(outputs, ["part"], "{deed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_has_no_more_of_the_processors_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--slots", "1", "--action-cpu", "0.2"];
    let mut server = Mortar::start(MORTAR, "up", &directory.path().join("data"), &flags).unwrap();
    if server.log().unwrap().contains("no control group can limit actions in: cpu") {
        return server.wait_for_log("actions are not held to their share of processors", LIMIT).unwrap();
    }
    let remote = client(&server.grpc());
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let action = upload(&remote, &marker(), busy, true).await;
    let outcome = execute(&remote, action).await.unwrap();
    let metadata = outcome.result.metadata;
    let (usage, wall) = (metadata.usage.unwrap(), metadata.virtual_execution_duration.unwrap());
    assert_eq!(outcome.result.exit_code, 0);
    // A fifth, but for the first period, whose share may be had at once.
    assert!(wall > (usage.user + usage.system) * 2, "{usage:?} in {wall:?}");
}
