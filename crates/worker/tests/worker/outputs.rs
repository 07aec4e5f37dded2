//! What becomes of outputs.

use crate::{FUNCTION, Job, Lab};
use mortar_model::{
    ActionResult, Context, Digest, DigestSet, Directory, Kind, Outcome, action::OutputDirectoryFormat,
};
use mortar_wire::{decode_directory, decode_tree, encode_directory};
use std::collections::HashSet;

const MAKE: &str = "mkdir -p out/dir/sub out/dir/same1 out/dir/same2; echo f > out/file; echo x > out/exec; chmod +x out/exec; \
    echo a > out/dir/a; echo b > out/dir/sub/b; echo s > out/dir/same1/s; echo s > out/dir/same2/s; \
    ln -s ../file out/dir/link; ln -s file out/link; ln -s dir out/dirlink; ln -s ../../usr/lib out/away; ln -s gone out/dangling";

fn files(result: &ActionResult) -> Vec<(&str, bool)> {
    result.files.iter().map(|file| (file.path.as_str(), file.is_executable)).collect()
}

fn links(links: &[mortar_model::OutputSymlink]) -> Vec<(&str, &str)> {
    links.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect()
}

#[tokio::test]
async fn output_paths_are_what_they_turn_out_to_be() {
    for lab in Lab::both().await {
        let paths = [
            "out/file",
            "out/exec",
            "out/dir",
            "out/link",
            "out/dirlink",
            "out/away",
            "out/dangling",
            "out/none",
        ];
        let result = lab.ok(&Job::new(MAKE).paths(&paths)).await;
        assert_eq!(files(&result), [("out/file", false), ("out/exec", true)]);
        assert_eq!(
            links(&result.symlinks),
            [
                ("out/link", "file"),
                ("out/dirlink", "dir"),
                ("out/away", "../../usr/lib"),
                ("out/dangling", "gone")
            ]
        );
        assert!(result.file_symlinks.is_empty() && result.directory_symlinks.is_empty());
        assert_eq!(lab.text(Some(result.files[0].digest)).await, "f\n");
        let missing = lab.blobs.find_missing(&Context::internal(), &result.named_blobs()).await.unwrap();
        assert!(missing.is_empty());
    }
}

#[tokio::test]
async fn typed_outputs_are_reported_as_old_and_new_clients_read_them() {
    let lab = Lab::memory().await;
    let job = Job::new(MAKE)
        .typed(&["out/file", "out/link", "out/none"], &["out/dir", "out/dirlink", "out/untouched"]);
    // A directory that was declared is there before the command: a link in its place has to replace it.
    let job = Job {
        command: mortar_model::Command {
            arguments: ["/bin/bash", "-c", &format!("rmdir out/dirlink; {MAKE}")].map(String::from).to_vec(),
            ..job.command
        },
        ..job
    };
    let result = lab.ok(&job).await;
    assert_eq!(files(&result), [("out/file", false)]);
    assert_eq!(links(&result.file_symlinks), [("out/link", "file")]);
    assert_eq!(links(&result.directory_symlinks), [("out/dirlink", "dir")]);
    assert_eq!(links(&result.symlinks), [("out/link", "file"), ("out/dirlink", "dir")]);
    let directories: Vec<_> = result.directories.iter().map(|directory| directory.path.as_str()).collect();
    assert_eq!(directories, ["out/dir", "out/untouched"]);
}

#[tokio::test]
async fn a_tree_holds_each_directory_once_parents_first() {
    for lab in Lab::both().await {
        let result = lab.ok(&Job::new(MAKE).paths(&["out/dir"])).await;
        let output = &result.directories[0];
        assert!(output.is_topologically_sorted && output.root_directory_digest.is_none());
        let tree = decode_tree(FUNCTION, lab.get(output.tree_digest.unwrap()).await).unwrap();
        let names: Vec<_> = tree.root.names().collect();
        assert_eq!(names, ["a", "same1", "same2", "sub", "link"]);
        assert_eq!(tree.children.len(), 2, "same1 and same2 are one");
        // Every directory is named by one that came before it.
        let mut named: HashSet<Digest> = tree.root.directories.iter().map(|node| node.digest).collect();
        for child in &tree.children {
            assert!(named.contains(&Digest::of(FUNCTION, &encode_directory(child))));
            named.extend(child.directories.iter().map(|node| node.digest));
        }
        let contents: DigestSet =
            tree.children.iter().flat_map(|child| &child.files).map(|file| file.digest).collect();
        assert!(lab.blobs.find_missing(&Context::internal(), &contents).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn directories_are_described_in_the_format_that_is_asked_for() {
    let lab = Lab::memory().await;
    for (format, tree, root) in [
        (OutputDirectoryFormat::TreeOnly, true, false),
        (OutputDirectoryFormat::DirectoryOnly, false, true),
        (OutputDirectoryFormat::TreeAndDirectory, true, true),
    ] {
        let mut job = Job::new(MAKE).paths(&["out/dir"]);
        job.command.output_directory_format = format;
        let output = lab.ok(&job).await.directories.remove(0);
        assert_eq!((output.tree_digest.is_some(), output.root_directory_digest.is_some()), (tree, root));
        let Some(digest) = output.root_directory_digest else { continue };
        let root = directory(&lab, digest).await;
        for child in &root.directories {
            directory(&lab, child.digest).await;
        }
    }
}

async fn directory(lab: &Lab, digest: Digest) -> Directory {
    decode_directory(FUNCTION, lab.get(digest).await).unwrap()
}

#[tokio::test]
async fn equal_outputs_have_equal_digests_whatever_their_order() {
    let lab = Lab::memory().await;
    let one = lab.ok(&Job::new("mkdir -p d/x; for i in 3 1 2; do echo $i > d/$i; done").paths(&["d"])).await;
    let two = lab
        .ok(&Job::new("mkdir -p d; for i in 1 2 3; do echo $i > d/$i; done; mkdir d/x").paths(&["d"]))
        .await;
    assert_eq!(one.directories, two.directories);
}

#[tokio::test]
async fn paths_are_relative_to_the_working_directory_and_directories_may_hold_inputs() {
    let lab = Lab::disk().await;
    let mut job =
        Job::new("echo new > sub/new; echo up > x").file("work/sub/old", "old").paths(&["sub", "x"]);
    job.command.working_directory = "work".into();
    let result = lab.ok(&job).await;
    assert_eq!(files(&result), [("x", false)]);
    let tree = decode_tree(FUNCTION, lab.get(result.directories[0].tree_digest.unwrap()).await).unwrap();
    assert_eq!(tree.root.names().collect::<Vec<_>>(), ["new", "old"]);

    let mut job = Job::new("echo 1 > one").typed(&[], &[""]);
    job.command.working_directory = "w".into();
    let result = lab.ok(&job).await;
    assert_eq!(result.directories[0].path, "");
}

#[tokio::test]
async fn properties_are_captured_where_asked_for() {
    let lab = Lab::memory().await;
    let mut job = Job::new("echo x > f; chmod 640 f; touch -d @1000 f").paths(&["f"]);
    assert!(lab.ok(&job).await.files[0].properties.is_none());
    job.command.output_node_properties = vec!["mtime".into(), "unix_mode".into()];
    let properties = lab.ok(&job).await.files[0].properties.clone().unwrap();
    assert_eq!(properties.unix_mode, Some(0o640));
    assert_eq!(properties.mtime, Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000)));
}

#[tokio::test]
async fn a_link_out_of_the_root_is_no_way_to_the_hosts_files() {
    let lab = Lab::memory().await;
    let secret = lab.directory.path().join("secret");
    std::fs::write(&secret, "x").unwrap();
    let script = format!(
        "rm -r out/d out/up; ln -s {} out/d; ln -s ../../../../../../../.. out/up",
        lab.directory.path().display()
    );
    let up = format!("out/up{}", secret.display());
    let result = lab.ok(&Job::new(&script).paths(&["out/d/secret", &up, "out/up"])).await;
    assert!(result.files.is_empty(), "{:?}", result.files);
    assert_eq!(result.symlinks.len(), 1);
}

#[tokio::test]
async fn absolute_links_are_no_outputs() {
    let lab = Lab::memory().await;
    for (script, place) in
        [("ln -s /usr/lib out/x", "`out/x`"), ("mkdir -p out/x/y; ln -s /usr/lib out/x/y/z", "`out/x/y/z`")]
    {
        let error = lab.run(&Job::new(script).paths(&["out/x"])).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::FailedPrecondition { .. }), "{error}");
        for needle in [place, "absolute", "`/usr/lib`"] {
            assert!(error.to_string().contains(needle), "{error}");
        }
        let failed = Job::new(&format!("{script}; exit 3")).paths(&["out/x"]);
        let result = lab.run(&failed).await.unwrap().result;
        assert_eq!((result.exit_code, result.symlinks.len()), (3, 0), "a failure is told by its own code");
    }
    let typed = Job::new("ln -s /usr/lib out/x").typed(&["out/x"], &[]);
    assert!(lab.run(&typed).await.unwrap_err().to_string().contains("absolute"));
}

#[tokio::test]
async fn what_is_no_file_cannot_be_kept() {
    let lab = Lab::memory().await;
    for script in ["mkfifo out/x", "mkdir out/x; mkfifo out/x/pipe"] {
        let error = lab.run(&Job::new(script).paths(&["out/x"])).await.unwrap_err().to_string();
        assert!(error.contains("neither a file nor a directory"), "{error}");
        let outcome = lab.run(&Job::new(&format!("{script}; exit 3")).paths(&["out/x"])).await.unwrap();
        assert_eq!(outcome.result.exit_code, 3, "a command that failed is told apart by its own code");
    }
    let error = lab.run(&Job::new("mkdir out/x").typed(&["out/x"], &[])).await.unwrap_err().to_string();
    assert!(error.contains("expected a file"), "{error}");
    let error = lab.run(&Job::new("rmdir x; echo > x").typed(&[], &["x"])).await.unwrap_err().to_string();
    assert!(error.contains("expected a directory"), "{error}");
}

#[tokio::test]
async fn what_the_command_closed_is_read_all_the_same() {
    let lab = Lab::memory().await;
    let script = "mkdir out/d; echo x > out/d/f; echo y > out/g; chmod 0 out/d/f out/g; chmod 0 out/d";
    let result = lab.ok(&Job::new(script).paths(&["out/d", "out/g"])).await;
    assert_eq!((result.directories.len(), result.files.len()), (1, 1));
    assert!(lab.leftovers().is_empty());
}

#[tokio::test]
async fn large_outputs_and_logs_are_stored() {
    for lab in Lab::both().await {
        let job = Job::new("head -c 5000000 /dev/zero > big; head -c 3000000 /dev/zero; echo e >&2")
            .paths(&["big"]);
        let result = lab.ok(&job).await;
        assert_eq!(result.files[0].digest.size(), 5_000_000);
        assert_eq!(lab.get(result.files[0].digest).await.len(), 5_000_000);
        assert_eq!(lab.get(result.stdout_digest.unwrap()).await.len(), 3_000_000);
        assert_eq!(lab.text(result.stderr_digest).await, "e\n");
        assert!(result.stdout_raw.is_empty());
        let Outcome { result, .. } = lab.run(&Job::new("true")).await.unwrap();
        assert_eq!((result.stdout_digest, result.stderr_digest), (None, None));
    }
}
