//! The input root holds exactly what was declared, and stays as it is.

use crate::{FUNCTION, Input, Job, Lab};
use bytes::Bytes;
use mortar_model::{Context, Digest, LocalFiles, NodeProperties};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, UNIX_EPOCH},
};

#[tokio::test]
async fn files_directories_and_links_are_as_declared() {
    let plain = |text: &'static str| Input::File {
        content: Bytes::from_static(text.as_bytes()),
        is_executable: false,
        properties: None,
    };
    let job =
        Job::new("find . -printf '%p %y %m %l\\n' | LC_ALL=C sort; cat a/b/exec a/plain empty; a/b/exec")
            .file("a/b/exec", "#!/bin/sh\necho ran\n")
            .input("a/plain", plain("plain\n"))
            .input("empty", plain(""))
            .input("none/at/all", Input::Directory(Default::default()))
            .input("a/link", Input::Link("b/exec".into()))
            .input("dangling", Input::Link("../x/y".into()));
    let expected = "\
. d 755 
./a d 755 
./a/b d 755 
./a/b/exec f 555 
./a/link l 777 b/exec
./a/plain f 444 
./dangling l 777 ../x/y
./empty f 444 
./none d 755 
./none/at d 755 
./none/at/all d 755 
#!/bin/sh
echo ran
plain
ran
";
    for lab in Lab::both().await {
        assert_eq!(lab.stdout(&job).await, expected);
        assert_eq!(lab.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn attributes_are_honoured() {
    let properties = |mode: u32, seconds: u64| {
        Some(NodeProperties {
            mtime: Some(UNIX_EPOCH + Duration::new(seconds, 5)),
            unix_mode: Some(mode),
            other: Vec::new(),
        })
    };
    let file = |mode, is_executable| Input::File {
        content: Bytes::from_static(b"x"),
        is_executable,
        properties: properties(mode, 1_000_000),
    };
    let mut job = Job::new("stat -c '%a %Y %n' d/f d/g d; cat d/f")
        .input("d/f", file(0o640, true))
        .input("d/g", file(0o4755, false));
    if let Some(Input::Directory(inputs)) = job.inputs.entries.get_mut("d") {
        inputs.properties = properties(0o700, 2_000_000);
    }
    for lab in Lab::both().await {
        assert_eq!(lab.stdout(&job).await, "640 1000000 d/f\n755 1000000 d/g\n700 2000000 d\nx");
    }
}

#[tokio::test]
async fn the_stores_own_files_are_linked_and_stay_as_they_are() {
    let lab = Lab::disk().await;
    let digest = Digest::of(FUNCTION, b"content");
    let job = Job::new(
        "stat -c %h in out/in; echo x > out/in; echo x > in; chmod 777 in out/in; rm -f out/in; mv out/in out/else; \
         ln in out/more; cat in out/in; echo made > out/made",
    );
    let job = job.file("in", "content").file("out/in", "content").paths(&["out/made"]);
    let result = lab.ok(&job).await;
    assert_eq!(lab.text(result.stdout_digest).await, "3\n3\ncontentcontent");
    let file = lab.disk.as_ref().unwrap().local_file(&Context::internal(), digest).await.unwrap().unwrap();
    let metadata = fs::metadata(file.path()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o555, 1));
    assert_eq!(fs::read(file.path()).unwrap(), b"content");
}

#[tokio::test]
async fn an_input_in_the_place_of_an_output_is_a_copy_that_may_change() {
    for lab in Lab::both().await {
        let job = Job::new("cat out/f && echo new > out/f").file("out/f", "old").paths(&["out/f"]);
        let result = lab.ok(&job).await;
        assert_eq!(lab.text(result.stdout_digest).await, "old");
        assert_eq!(lab.text(Some(result.files[0].digest)).await, "new\n");
        assert_eq!(lab.get(Digest::of(FUNCTION, b"old")).await, "old");
    }
}

#[tokio::test]
async fn an_action_may_have_many_and_large_inputs() {
    let large = "0123456789abcdef".repeat(300_000);
    for lab in Lab::both().await {
        let mut job = Job::new("cat */f* | wc -l; wc -c < large; sha256sum < large | cut -c 1-64");
        for index in 0..500 {
            job = job.file(&format!("d{}/f{index}", index % 7), &format!("{}\n", index % 50));
        }
        let digest = Digest::of(FUNCTION, large.as_bytes()).hex();
        assert_eq!(lab.stdout(&job.file("large", &large)).await, format!("500\n4800000\n{digest}\n"));
    }
}

#[tokio::test]
async fn the_working_directory_exists_and_relative_temporary_directories_can_be_written() {
    let lab = Lab::memory().await;
    let mut job = Job::new(
        "pwd; echo x > $TEST_TMPDIR/f; rm -rf $TEST_TMPDIR; mkdir -p $TEST_TMPDIR; echo x > f || echo no",
    );
    job.command.working_directory = "some/where".into();
    job.command.environment.push(("TEST_TMPDIR".into(), "_tmp/0".into()));
    assert_eq!(lab.stdout(&job).await, "/mortar/exec/some/where\n");
    let job = Job { inputs: job.clone().file("some/where/in", "").inputs, ..job };
    assert_eq!(lab.stdout(&job).await, "/mortar/exec/some/where\nno\n");
}
