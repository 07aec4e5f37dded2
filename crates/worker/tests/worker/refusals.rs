//! Actions that cannot be run say why, and leave nothing behind.

use crate::{FUNCTION, Input, Job, Lab, run};
use mortar_model::{Action, Digest, Directory, Error, FileNode, Kind, Outcome};
use mortar_wire::{encode_action, encode_command, encode_directory};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

async fn refused(lab: &Lab, action: Digest) -> Error {
    let outcome: Result<Outcome, _> =
        lab.worker.run(run(action), Arc::new(()), CancellationToken::new()).await;
    assert!(lab.leftovers().is_empty());
    outcome.unwrap_err()
}

#[tokio::test]
async fn all_missing_blobs_are_told_at_once() {
    for lab in Lab::both().await {
        let absent = |text: &[u8]| Digest::of(FUNCTION, text);
        let error = refused(&lab, absent(b"action")).await;
        assert_eq!(error.kind(), &Kind::MissingBlobs { missing: vec![absent(b"action")] });

        let root = Directory {
            files: vec![
                FileNode {
                    name: "a".into(),
                    digest: absent(b"file 1"),
                    is_executable: true,
                    properties: None,
                },
                FileNode {
                    name: "b".into(),
                    digest: absent(b"file 2"),
                    is_executable: false,
                    properties: None,
                },
                FileNode {
                    name: "c".into(),
                    digest: lab.put("here").await,
                    is_executable: false,
                    properties: None,
                },
                FileNode { name: "d".into(), digest: absent(b""), is_executable: false, properties: None },
            ],
            directories: vec![mortar_model::DirectoryNode { name: "e".into(), digest: absent(b"directory") }],
            ..Directory::default()
        };
        let action = Action {
            command_digest: absent(b"command"),
            input_root_digest: lab.put(encode_directory(&root)).await,
            timeout: None,
            do_not_cache: false,
            platform: None,
        };
        let error = refused(&lab, lab.put(encode_action(&action)).await).await;
        let Kind::MissingBlobs { missing } = error.kind() else { panic!("{error}") };
        let mut missing = missing.clone();
        missing.sort();
        let mut expected =
            ["file 1", "file 2", "directory", "command"].map(|text| absent(text.as_bytes())).to_vec();
        expected.sort();
        assert_eq!(missing, expected);
    }
}

#[tokio::test]
async fn malformed_messages_name_the_field() {
    let lab = Lab::memory().await;
    let junk = lab.put(vec![0xff; 20]).await;
    let command = lab.put(encode_command(&Job::new("true").command)).await;
    let unsorted = {
        let file = |name: &str| FileNode {
            name: name.into(),
            digest: Digest::of(FUNCTION, b""),
            is_executable: false,
            properties: None,
        };
        let directory = Directory { files: vec![file("b"), file("a")], ..Directory::default() };
        lab.put(encode_directory(&directory)).await
    };
    let empty = lab.put("").await;
    let action = |command_digest, input_root_digest| {
        encode_action(&Action {
            command_digest,
            input_root_digest,
            timeout: None,
            do_not_cache: false,
            platform: None,
        })
    };
    let cases = [
        (junk, "Action"),
        (empty, "command_digest"),
        (lab.put(action(junk, empty)).await, "Command"),
        (lab.put(action(empty, empty)).await, "arguments"),
        (lab.put(action(command, junk)).await, "Directory"),
        (lab.put(action(command, unsorted)).await, "not sorted"),
    ];
    for (digest, needle) in cases {
        let error = refused(&lab, digest).await;
        assert!(matches!(error.kind(), Kind::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains(needle), "{needle}: {error}");
    }
}

#[tokio::test]
async fn what_cannot_be_made_is_refused() {
    let lab = Lab::memory().await;
    let through_link =
        Job::new("true").input("link", Input::Link("../../../../etc".into())).paths(&["link/x"]);
    let through_file = Job::new("true").file("file", "").paths(&["file/x"]);
    let absolute = Job::new("true").input("deep/link", Input::Link("/etc/passwd".into()));
    let mut too_long = Job::new("true");
    too_long.timeout = Some(Duration::from_secs(101));
    for (job, needle) in [
        (through_link, "symbolic link"),
        (through_file, "is a file"),
        (absolute, "absolute path `/etc/passwd`"),
        (too_long, "101 s"),
    ] {
        let action = lab.action(&job).await;
        let error = refused(&lab, action).await;
        assert!(matches!(error.kind(), Kind::InvalidArgument { .. }), "{error}");
        assert!(error.to_string().contains(needle), "{error}");
    }
}
