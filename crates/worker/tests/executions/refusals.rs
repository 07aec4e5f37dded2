//! Actions that cannot be run: the client is told what is wrong in the protocol's terms, nothing is recorded, and the
//! server goes on.

use crate::{
    Ended, House,
    job::{Job, directory},
};
use mortar_model::{Digest, DigestFunction::Sha256, Kind};
use mortar_wire::{digest_to_wire, reapi};
use prost::Message;
use std::collections::BTreeSet;
use tonic::Code;

fn absent(text: &str) -> reapi::Digest {
    digest_to_wire(Digest::of(Sha256, text.as_bytes()))
}

/// Executes, and makes sure that nothing was recorded and that the server lives.
async fn refused(house: &House, what: &str, action: reapi::Digest) -> (Code, mortar_model::Error) {
    let job = Job::new("true");
    let ended = Ended::of(house.start(&job, action.clone()).await).await;
    assert!(ended.response.result.is_none(), "{what}: {:?}", ended.response);
    assert_eq!(house.cached(&job, action).await, None, "{what}");
    house.assert_alive().await;
    ended.error.unwrap_or_else(|| panic!("{what} is accepted"))
}

/// Without a worker: none has to find it out.
#[tokio::test]
async fn every_missing_blob_is_named_at_once() {
    let house = House::without_worker().await;
    let keep = async |bytes: Vec<u8>| house.put(Sha256, bytes).await;
    let (file, other, gone) = (absent("file"), absent("other"), absent("directory"));
    let here = house.put(Sha256, "here").await;
    let no_file = keep(directory(&[("a", &here), ("b", &file)], &[], &[])).await;
    let no_directory = keep(directory(&[("a", &here)], &[("d", &gone)], &[])).await;
    let below = [("d", &gone), ("e", &no_file), ("f", &no_file)];
    let nothing = keep(directory(&[("x", &other), ("y", &other)], &below, &[])).await;
    let whole = || Job::new("true");
    let lost = || Job { command_digest: Some(absent("command")), ..whole() };
    for (what, action, missing) in [
        ("no action", absent("action"), vec!["action"]),
        ("no command", lost().upload(&house).await, vec!["command"]),
        ("no root", whole().root(gone.clone()).upload(&house).await, vec!["directory"]),
        ("neither", lost().root(gone.clone()).upload(&house).await, vec!["command", "directory"]),
        ("a file", whole().root(no_file.clone()).upload(&house).await, vec!["file"]),
        ("a directory", whole().root(no_directory).upload(&house).await, vec!["directory"]),
        ("some", whole().root(nothing.clone()).upload(&house).await, vec!["file", "other", "directory"]),
        ("all", lost().root(nothing).upload(&house).await, vec!["command", "file", "other", "directory"]),
    ] {
        let (code, error) = refused(&house, what, action).await;
        let Kind::MissingBlobs { missing: told } = error.kind() else { panic!("{what}: {error}") };
        assert_eq!((code, told.len()), (Code::FailedPrecondition, missing.len()), "{what}");
        let told: BTreeSet<String> = told.iter().map(Digest::hex).collect();
        assert_eq!(told, missing.into_iter().map(|text| absent(text).hash).collect(), "{what}");
    }
    assert_eq!(house.scheduler.status().await.queued, 0);
    house.hire().await;
    house.ok(&whole()).await;
}

#[tokio::test]
async fn a_great_many_missing_blobs_can_be_told() {
    let house = House::without_worker().await;
    let files: Vec<_> =
        (0..900).map(|index| (format!("f{index:03}"), absent(&format!("file {index}")))).collect();
    let files: Vec<_> = files.iter().map(|(name, digest)| (name.as_str(), digest)).collect();
    let root = house.put(Sha256, directory(&files, &[], &[])).await;
    let job = Job::new("true").root(root);
    let lost = Job { command_digest: Some(absent("a command")), ..job.clone() };
    for (job, expected) in [(job, 900), (lost, 901)] {
        let (_, error) = refused(&house, "many", job.upload(&house).await).await;
        let Kind::MissingBlobs { missing } = error.kind() else { panic!("{error}") };
        assert_eq!(missing.len(), expected);
    }
}

#[tokio::test]
async fn malformed_messages_are_invalid_arguments() {
    let house = House::new().await;
    let junk = house.put(Sha256, vec![0xff; 20]).await;
    let empty = house.put(Sha256, "").await;
    let job = Job::new("true");
    let command = |command| Job { command, ..Job::new("true") };
    let odd = reapi::Digest { hash: "xyz".into(), size_bytes: 1 };
    let no_digests = reapi::Action { do_not_cache: true, ..Default::default() };
    let no_digests = house.put(Sha256, no_digests.encode_to_vec()).await;
    let bad_command = Job { command_digest: Some(junk.clone()), ..job.clone() };
    let odd_command = Job { command_digest: Some(odd.clone()), ..job.clone() };
    let nameless = reapi::command::EnvironmentVariable { name: "A=B".into(), value: String::new() };
    let nameless = reapi::Command { environment_variables: vec![nameless], ..job.command.clone() };
    for (what, action, needle) in [
        ("an action of junk", junk.clone(), "Action"),
        ("an empty action", empty, "command_digest"),
        ("an action without digests", no_digests, "command_digest"),
        ("a command of junk", bad_command.upload(&house).await, "Command"),
        ("an odd command digest", odd_command.upload(&house).await, "`xyz`"),
        ("an odd root digest", job.clone().root(odd.clone()).upload(&house).await, "`xyz`"),
        ("no arguments", command(reapi::Command::default()).upload(&house).await, "arguments"),
        ("a malformed variable", command(nameless).upload(&house).await, "A=B"),
        ("a root of junk", job.clone().root(junk).upload(&house).await, "Directory"),
        ("too long", job.clone().timeout(101, 0).upload(&house).await, "101"),
        ("less than no time", job.clone().timeout(-1, 0).upload(&house).await, "timeout"),
        ("negative nanoseconds", job.clone().timeout(0, -1).upload(&house).await, "timeout"),
    ] {
        let (code, error) = refused(&house, what, action).await;
        assert_eq!(code, Code::InvalidArgument, "{what}: {error}");
        assert!(error.to_string().contains(needle), "{what}: {error}");
    }
    house.ok(&job).await;
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_invalid_arguments() {
    let house = House::new().await;
    let text = house.put(Sha256, "text").await;
    let root = house.put(Sha256, directory(&[("file", &text)], &[], &[("link", "../..")])).await;
    let with = |change: &dyn Fn(&mut reapi::Command)| {
        let mut job = Job::new("true").root(root.clone());
        change(&mut job.command);
        job
    };
    for (what, job, needle) in [
        ("an absolute directory", with(&|command| command.working_directory = "/etc".into()), "/etc"),
        ("a directory outside", with(&|command| command.working_directory = "a/../..".into()), "a/../.."),
        ("a file as directory", with(&|command| command.working_directory = "file".into()), "`file`"),
        ("a link as directory", with(&|command| command.working_directory = "link".into()), "`link`"),
        ("a long output", with(&|command| command.output_paths = vec!["../".repeat(50_000)]), "../"),
        ("an absolute output", with(&|command| command.output_paths = vec!["/etc/x".into()]), "/etc/x"),
        ("an output outside", with(&|command| command.output_paths = vec!["../x".into()]), "../x"),
        ("an output through a link", with(&|command| command.output_paths = vec!["link/x".into()]), "`link`"),
        ("an old output outside", with(&outside_file), "a/../x"),
        ("an old directory outside", with(&outside_directory), "a/../x"),
    ] {
        let (code, error) = refused(&house, what, job.upload(&house).await).await;
        assert_eq!(code, Code::InvalidArgument, "{what}: {error}");
        assert!(error.to_string().contains(needle), "{what}: {error}");
    }
}

#[allow(deprecated)]
fn outside_file(command: &mut reapi::Command) {
    command.output_files = vec!["a/../x".into()];
}

#[allow(deprecated)]
fn outside_directory(command: &mut reapi::Command) {
    command.output_directories = vec!["a/../x".into()];
}

#[tokio::test]
async fn malformed_input_directories_are_invalid_arguments() {
    let house = House::new().await;
    let (file, none) = (house.put(Sha256, "content").await, house.put(Sha256, "").await);
    let odd = reapi::Digest { hash: "xyz".into(), size_bytes: 1 };
    for (what, bad, needle) in [
        ("unsorted files", directory(&[("b", &file), ("a", &file)], &[], &[]), "sorted"),
        ("unsorted directories", directory(&[], &[("b", &none), ("a", &none)], &[]), "sorted"),
        ("unsorted links", directory(&[], &[], &[("b", "x"), ("a", "x")]), "sorted"),
        ("duplicates", directory(&[("a", &file), ("a", &file)], &[], &[]), "twice"),
        ("duplicates of two kinds", directory(&[("a", &file)], &[("a", &none)], &[]), "twice"),
        ("an absolute name", directory(&[("/etc/passwd", &file)], &[], &[]), "slash"),
        ("a longer path", directory(&[], &[("a/b", &none)], &[]), "slash"),
        ("`..`", directory(&[], &[("..", &none)], &[]), "`..`"),
        ("`.`", directory(&[(".", &file)], &[], &[]), "`.`"),
        ("no name", directory(&[("", &file)], &[], &[]), "no name"),
        ("a NUL", directory(&[("a\0b", &file)], &[], &[]), "NUL"),
        ("an absolute link", directory(&[], &[], &[("a", "/etc")]), "absolute"),
        ("a link to nowhere", directory(&[], &[], &[("a", "")]), "no target"),
        ("an odd digest", directory(&[("a", &odd)], &[], &[]), "`xyz`"),
        ("no Directory", vec![0xff; 9], "Directory"),
    ] {
        let bad = house.put(Sha256, bad).await;
        let above = house.put(Sha256, directory(&[], &[("deep", &bad)], &[])).await;
        for root in [bad, above] {
            let action = Job::new("true").root(root).upload(&house).await;
            let (code, error) = refused(&house, what, action).await;
            assert_eq!(code, Code::InvalidArgument, "{what}: {error}");
            assert!(error.to_string().contains(needle), "{what}: {error}");
        }
    }
}

#[tokio::test]
async fn trees_that_are_too_large_are_invalid_arguments() {
    let house = House::new().await;
    // What a tree that contains itself would be like, were there hashes for it.
    let (mut exploding, mut deep) = (house.put(Sha256, "").await, house.put(Sha256, "").await);
    for _ in 0..15 {
        exploding = house.put(Sha256, directory(&[], &[("a", &exploding), ("b", &exploding)], &[])).await;
    }
    for _ in 0..40 {
        deep = house.put(Sha256, directory(&[], &[("a", &deep)], &[])).await;
    }
    for (what, root) in [("an exploding tree", exploding), ("a deep tree", deep)] {
        let (code, error) = refused(&house, what, Job::new("true").root(root).upload(&house).await).await;
        assert_eq!(code, Code::InvalidArgument, "{what}: {error}");
        assert!(error.to_string().contains("too large"), "{what}: {error}");
    }
    house.ok(&Job::new("true")).await;
}
