//! `mortar purge` and `mortar store …`, over the admin socket of a server and where none runs.

use crate::{LIMIT, MORTAR, action::client, assert_refused, mortar, run};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Context, Digest, DigestFunction,
    InstanceName, OutputFile, RequestMetadata,
};
use mortar_remote::Remote;
use mortar_testkit::{
    http,
    mortar::Mortar,
    process::{self, Finished},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{
        fs::{FileExt, FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

const LARGE: usize = 300_000;

/// A data directory, with or without a server.
struct Scene {
    server: Mortar,
    data: PathBuf,
    directory: tempfile::TempDir,
}

/// Two results: the first of the instance without a name, the second of `team`.
struct Filled {
    blobs: [Digest; 2],
    actions: [ActionKey; 2],
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        Self { server: Mortar::server(MORTAR, &data).unwrap(), data, directory }
    }

    fn remote(&self) -> Remote {
        client(&self.server.grpc())
    }

    /// Ends the server, so that nobody owns the directory.
    fn leave(&mut self) {
        assert_eq!(self.server.interrupt(LIMIT).unwrap().code(), Some(0), "{}", self.server.log().unwrap());
        assert!(!self.data.join("admin.sock").exists());
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = mortar(self.directory.path(), arguments);
        process::run(command.arg("--dir").arg(&self.data).env("MORTAR_LOG", "off"), LIMIT).unwrap()
    }

    /// Its output, having ended with this code.
    #[track_caller]
    fn said(&self, code: i32, arguments: &[&str]) -> String {
        let Finished { status, stdout, stderr } = self.run(arguments);
        assert_eq!(status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
        stdout
    }

    #[track_caller]
    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(code, &[arguments, &["--json"]].concat())).unwrap()
    }

    async fn fill(&self) -> Filled {
        let remote = self.remote();
        let mut filled = Filled { blobs: [blob(1).0, blob(2).0], actions: [action(1), action(2)] };
        for (index, (instance, seed)) in [("", 1), ("team", 2)].into_iter().enumerate() {
            let (digest, content) = blob(seed);
            let context = of(instance, &format!("i{seed}"));
            remote.write_bytes(&context, digest, content.into()).await.unwrap();
            let path = "out".into();
            let file =
                OutputFile { path, digest, is_executable: false, contents: "".into(), properties: None };
            let mut result = ActionResult { files: vec![file], ..ActionResult::default() };
            result.metadata.worker = format!("w{seed}");
            remote.put(&context, filled.actions[index], result).await.unwrap();
            filled.blobs[index] = digest;
        }
        let put = http::put(self.server.address(), &format!("/ac/{}", "7".repeat(64)), b"opaque").unwrap();
        assert!((200..300).contains(&put.status), "{put:?}");
        filled
    }

    /// Which of both results are served.
    async fn served(&self, filled: &Filled) -> [bool; 2] {
        let remote = self.remote();
        let first = remote.get(&of("", ""), filled.actions[0]).await.unwrap();
        let second = remote.get(&of("team", ""), filled.actions[1]).await.unwrap();
        [first.is_some(), second.is_some()]
    }

    async fn is_present(&self, digest: Digest) -> bool {
        let missing = self.remote().find_missing(&of("", ""), &[digest].into_iter().collect()).await;
        missing.unwrap().is_empty()
    }
}

fn of(instance: &str, invocation: &str) -> Context {
    let request = RequestMetadata { tool_invocation_id: invocation.into(), ..RequestMetadata::default() };
    let context = Context::internal().with_instance(InstanceName::parse(instance).unwrap());
    Context { request: request.into(), ..context }
}

fn blob(seed: u8) -> (Digest, Vec<u8>) {
    let length = if seed.is_multiple_of(2) { LARGE } else { 1000 };
    let content: Vec<u8> = (0..length).map(|at| (at * 7 / 3) as u8 ^ seed).collect();
    (Digest::of(DigestFunction::Sha256, &content), content)
}

fn action(seed: u8) -> ActionKey {
    ActionKey { function: DigestFunction::Sha256, hash: [seed; 32] }
}

fn spelled(digest: Digest) -> String {
    format!("{}/{}", digest.hex(), digest.size())
}

/// Turns one bit round in the first segment, in the middle of the content of the small blob.
fn damage(data: &Path) {
    let path = data.join("store/segments/00000001");
    let bytes = fs::read(&path).unwrap();
    let (_, content) = blob(1);
    let at = bytes.windows(content.len()).position(|part| part == content).unwrap() + 500;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_what_is_selected() {
    let hash = action(2).hex();
    let digest = spelled(blob(2).0);
    for (flag, value, expected, served) in [
        ("--digest", digest.as_str(), [1, 1, 0], [true, false]),
        ("--action", &hash, [0, 1, 0], [true, false]),
        ("--instance", "team", [0, 1, 0], [true, false]),
        ("--instance", "", [0, 1, 1], [false, true]),
        ("--worker", "w1", [0, 1, 0], [false, true]),
        ("--invocation", "i2", [0, 1, 0], [true, false]),
        ("--older-than", "0s", [0, 2, 1], [false, false]),
        ("--older-than", "7d", [0, 0, 0], [true, true]),
    ] {
        for with_server in [true, false] {
            let mut scene = Scene::new();
            let filled = scene.fill().await;
            if !with_server {
                scene.leave();
            }
            let [blobs, results, values] = expected;
            let told = |dry_run| json!({ "dry_run": dry_run, "blobs": blobs, "action_results": results, "values": values });
            let (name, arguments) = (format!("{flag} {value}"), ["purge", flag, value]);
            let dry = [&arguments[..], &["--dry-run"]].concat();
            assert_eq!(scene.json(0, &dry), told(true), "{name}");
            assert_eq!(scene.json(0, &dry), told(true), "{name}: nothing went");
            assert_eq!(scene.json(0, &arguments), told(false), "{name}");
            let none = json!({ "dry_run": false, "blobs": 0, "action_results": 0, "values": 0 });
            assert_eq!(scene.json(0, &arguments), none, "{name}: all went");
            if !with_server {
                scene.server.restart().unwrap();
            }
            assert_eq!(scene.served(&filled).await, served, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_does_not_come_back_after_a_kill() {
    let mut scene = Scene::new();
    let filled = scene.fill().await;
    for (index, digest) in filled.blobs.into_iter().enumerate() {
        let said = scene.said(0, &["purge", "--digest", &spelled(digest)]);
        scene.server.kill().unwrap();
        assert_eq!(said, "purged 1 blob, 1 action result, 0 values\n");
        scene.server.restart().unwrap();
        assert!(!scene.is_present(digest).await);
        assert!(!scene.served(&filled).await[index]);
        let report = scene.json(0, &["store", "verify", "--deep"]);
        assert_eq!((&report["recovered"], &report["sound"]), (&json!(0), &json!(true)), "{report}");
        assert!(!scene.is_present(digest).await);
    }
    // Who brings it anew is welcome.
    scene.fill().await;
    assert_eq!(scene.served(&filled).await, [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_told_and_set_aside() {
    for with_server in [true, false] {
        let mut scene = Scene::new();
        let filled = scene.fill().await;
        if !with_server {
            scene.leave();
        }
        let sound = scene.said(0, &["store", "verify", "--deep"]);
        assert!(sound.starts_with("checked 2 blobs and "), "{sound}");
        assert!(sound.ends_with(": sound\n"), "{sound}");

        damage(&scene.data);
        let [small, large] = filled.blobs;
        let stored = fs::read_dir(scene.data.join(format!("store/blobs/sha256/{}", &large.hex()[..2])));
        fs::remove_file(stored.unwrap().next().unwrap().unwrap().path()).unwrap();
        let said = scene.said(1, &["store", "verify"]);
        let damaged = format!("damaged sha256 {}: its record is damaged", small.hex());
        let lost = format!("lost sha256 {}: its file is gone\n", large.hex());
        assert!(said.contains(&damaged) && said.contains(&lost), "{said}");
        assert!(said.ends_with(": damage was found; 1 damaged, 1 lost\n"), "{said}");

        // It is dealt with.
        let report = scene.json(0, &["store", "verify"]);
        assert_eq!((&report["blobs"], &report["findings"]), (&json!(0), &json!([])), "{report}");
        if !with_server {
            scene.server.restart().unwrap();
        }
        assert_eq!(scene.served(&filled).await, [false, false]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_as_json_names_what_was_found() {
    let scene = Scene::new();
    let filled = scene.fill().await;
    damage(&scene.data);
    let report = scene.json(1, &["store", "verify"]);
    assert_eq!((&report["sound"], &report["damaged"]), (&json!(false), &json!(1)), "{report}");
    let finding = &report["findings"][0];
    let name = json!(format!("sha256 {}", filled.blobs[0].hex()));
    assert_eq!((&finding["verdict"], &finding["name"]), (&json!("damaged"), &name), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_with_a_server_and_without() {
    let mut scene = Scene::new();
    scene.fill().await;
    let served = scene.json(0, &["store", "stats"]);
    assert_eq!(
        (&served["blobs"], &served["action_results"], &served["values"]),
        (&json!(2), &json!(2), &json!(1)),
        "{served}"
    );
    assert!(served["max_size"].as_u64().is_some(), "{served}");
    scene.leave();
    let alone = scene.json(0, &["store", "stats"]);
    assert_eq!((&alone["blobs"], &alone["max_size"]), (&json!(2), &Value::Null), "{alone}");
    let said = scene.said(0, &["store", "stats"]);
    assert!(said.starts_with("on disk ") && said.contains("\nblobs        2\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_cache_is_taken_over() {
    for with_server in [true, false] {
        let mut scene = Scene::new();
        let (digest, content) = blob(1);
        let source = scene.directory.path().join("disk-cache");
        for (area, name, bytes) in [("cas", digest.hex(), content), ("cas", "f".repeat(64), vec![1])] {
            let folder = source.join(area).join(&name[..2]);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
        fs::create_dir_all(source.join("ac")).unwrap();
        if !with_server {
            scene.leave();
        }
        let said = scene.said(0, &["store", "import", "disk-cache"]);
        assert!(said.contains(&format!("left out cas/ff/{}: ", "f".repeat(64))), "{said}");
        assert!(
            said.contains("imported 1 blob (1000 B) and 0 action results from Bazel's disk cache"),
            "{said}"
        );
        let again = scene.json(0, &["store", "import", "disk-cache"]);
        assert_eq!((&again["blobs"], &again["known_blobs"]), (&json!(0), &json!(1)), "{again}");
        if !with_server {
            scene.server.restart().unwrap();
        }
        assert!(scene.is_present(digest).await);
        let refused = scene.run(&["store", "import", "nowhere"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("nowhere"), "{}", refused.stderr);
    }
}

#[test]
fn the_socket_is_the_users_alone_and_outlives_no_owner() {
    let mut scene = Scene::new();
    let socket = scene.data.join("admin.sock");
    let is_socket = || {
        let metadata = fs::symlink_metadata(&socket).unwrap();
        (metadata.file_type().is_socket(), metadata.permissions().mode() & 0o777)
    };
    assert_eq!(is_socket(), (true, 0o600));
    scene.server.kill().unwrap();
    // What a killed owner left is in nobody's way.
    assert_eq!(is_socket(), (true, 0o600));
    scene.json(0, &["store", "stats"]);
    scene.server.restart().unwrap();
    assert_eq!(is_socket(), (true, 0o600));
    scene.json(0, &["store", "stats"]);
    scene.leave();
}

#[test]
fn where_there_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("nowhere");
    let shown = nowhere.display();
    for arguments in [&["store", "stats"][..], &["store", "verify"], &["purge", "--worker", "w"]] {
        let arguments = [arguments, &["--dir", nowhere.to_str().unwrap()]].concat();
        let hint = "name the data directory of a server with --dir";
        let said = format!("error: there is no store in `{shown}`\nHint: {hint}\n");
        assert_refused(&run(directory.path(), &arguments), 1, &said);
        assert!(!nowhere.exists());
    }
    let scene = Scene::new();
    let store = scene.data.join("store");
    let hint = "this is the store itself; name the directory above it";
    let said = format!("error: there is no store in `{}`\nHint: {hint}\n", store.display());
    let arguments = ["store", "stats", "--dir", store.to_str().unwrap()];
    assert_refused(&run(scene.directory.path(), &arguments), 1, &said);
}

#[test]
fn an_owner_that_does_not_answer() {
    let scene = Scene::new();
    let socket = scene.data.join("admin.sock");
    fs::remove_file(&socket).unwrap();
    let refused = scene.run(&["store", "stats"]);
    assert_eq!(refused.status.code(), Some(1));
    let start =
        format!("error: nobody answers on `{}`, and the store cannot be opened here: ", socket.display());
    assert!(refused.stderr.starts_with(&start), "{}", refused.stderr);
    assert!(refused.stderr.contains("is in use by another process"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_another_version() {
    struct Stranger;
    impl mortar_wire::bytestream::byte_stream_server::ByteStream for Stranger {}
    let mut scene = Scene::new();
    scene.leave();
    let listener = UnixListener::bind(scene.data.join("admin.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    let service = mortar_wire::bytestream::byte_stream_server::ByteStreamServer::new(Stranger);
    let incoming = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    let serving = tokio::spawn(serving);
    let refused = scene.run(&["store", "stats"]);
    serving.abort();
    let hint = "use the `mortar` that it was started with";
    let what = "the server that owns this directory does not know what it is asked for: it is another version of Mortar";
    assert_refused(&refused, 1, &format!("error: {what}\nHint: {hint}\n"));
}

#[test]
fn a_path_that_is_too_long_for_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("d".repeat(120));
    let mut server = Mortar::server(MORTAR, &data).unwrap();
    server.wait_for_log("there is no admin socket", LIMIT).unwrap();
    let arguments = ["store", "stats", "--dir", data.to_str().unwrap()];
    let refused = run(directory.path(), &arguments);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("the path of a socket may have 107"), "{}", refused.stderr);
    assert_eq!(server.interrupt(LIMIT).unwrap().code(), Some(0));
    let alone = run(directory.path(), &arguments);
    assert_eq!(alone.status.code(), Some(0), "{}", alone.stderr);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, needle) in [
        (&["purge"][..], "required arguments were not provided"),
        (&["purge", "--worker", "w", "--instance", "i"], "cannot be used with"),
        (&["purge", "--digest", "abc"], "`abc` is no digest; expected HASH/SIZE"),
        (&["purge", "--digest", "abc/1"], "`abc` is no hash"),
        (&["purge", "--older-than", "7"], "`7` is no duration"),
        (&["purge", "--worker", "w", "--digest-function", "md5"], "expected sha256 or blake3"),
        (&["purge", "--worker", ""], "expected a name"),
        (&["purge", "--instance", "a//b"], "a//b"),
        (&["store"], "Usage: mortar store"),
        (&["store", "import"], "<SOURCE>"),
    ] {
        let refused = run(directory.path(), arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(refused.stderr.contains(needle), "{arguments:?}: {}", refused.stderr);
    }
}
