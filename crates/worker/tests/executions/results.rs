//! What executions give back: codes, logs, times, outputs in every form.

use crate::{
    Ended, House,
    job::{Job, directory},
};
use mortar_model::{DigestFunction, DigestFunction::Sha256};
use mortar_wire::reapi::{self, command::OutputDirectoryFormat};
use std::time::{Duration, SystemTime};
use tonic::Code;

#[tokio::test]
async fn a_failure_is_a_result_with_logs_that_is_never_cached() {
    let house = House::new().await;
    let job = Job::new("echo out; echo err >&2; echo part > part; exit 42").paths(&["part"]);
    let action = job.upload(&house).await;
    for runs in 1..=2 {
        let ended = house.execute(&job).await;
        assert!(ended.error.is_none(), "{:?}", ended.error);
        let result = ended.response.result.unwrap();
        assert_eq!((result.exit_code, ended.response.cached_result), (42, false));
        assert_eq!((&result.stdout_raw[..], &result.stderr_raw[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(house.get(Sha256, result.output_files[0].digest.as_ref()).await, "part\n");
        assert_eq!(house.cached(&job, action.clone()).await, None);
        assert_eq!(house.scheduler.status().await.counters.executed, runs);
    }
    let killed = house.execute(&Job::new("kill -9 $$")).await.response;
    assert_eq!(killed.result.unwrap().exit_code, 137);
    assert!(killed.message.contains("signal 9"), "{}", killed.message);
}

#[tokio::test]
async fn a_time_limit_gives_a_status_and_what_there_is() {
    let house = House::new().await;
    let job = Job::new("echo before; echo why >&2; sleep 1000").timeout(0, 300_000_000);
    let Ended { error, response } = house.execute(&job).await;
    let (code, error) = error.expect("it is out of time");
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(error.to_string().contains("0.3 s"), "{error}");
    let result = response.result.expect("a result beside the status");
    assert_eq!((&result.stdout_raw[..], &result.stderr_raw[..]), (&b"before\n"[..], &b"why\n"[..]));
    let ran = result.execution_metadata.unwrap().virtual_execution_duration.unwrap();
    assert!(Duration::try_from(ran).unwrap() >= Duration::from_millis(300));
    assert_eq!(house.cached(&job, job.upload(&house).await).await, None);
    // Zero is no limit at all.
    house.ok(&Job::new("true").timeout(0, 0)).await;
}

#[tokio::test]
async fn every_time_is_filled_in_and_they_are_in_order() {
    let house = House::new().await;
    let began = SystemTime::now();
    let job = Job::unique();
    let executed = house.ok(&job).await.result.unwrap().execution_metadata.unwrap();
    let cached = house.ok(&job).await;
    assert!(cached.cached_result);
    for metadata in [executed, cached.result.unwrap().execution_metadata.unwrap()] {
        assert_eq!(metadata.worker, "tester");
        let times = [
            metadata.queued_timestamp,
            metadata.worker_start_timestamp,
            metadata.input_fetch_start_timestamp,
            metadata.input_fetch_completed_timestamp,
            metadata.execution_start_timestamp,
            metadata.execution_completed_timestamp,
            metadata.output_upload_start_timestamp,
            metadata.output_upload_completed_timestamp,
            metadata.worker_completed_timestamp,
        ];
        let times = times.map(|time| SystemTime::try_from(time.expect("every time")).unwrap());
        assert!(times.is_sorted() && times[0] >= began && times[8] <= SystemTime::now(), "{times:?}");
        assert!(metadata.virtual_execution_duration.is_some());
    }
}

const MAKE: &str = "mkdir -p out/d/e; echo f > out/f; echo e > out/d/e/e; ln -s f out/l; ln -s d out/dl";

fn paths(result: &reapi::ActionResult) -> [Vec<&str>; 3] {
    [
        result.output_files.iter().map(|file| file.path.as_str()).collect(),
        result.output_directories.iter().map(|directory| directory.path.as_str()).collect(),
        result.output_symlinks.iter().map(|link| link.path.as_str()).collect(),
    ]
}

#[tokio::test]
#[allow(deprecated)]
async fn outputs_are_reported_in_the_form_in_which_they_were_asked_for() {
    let house = House::new().await;
    let new = Job::new(MAKE).paths(&["out/d", "out/dl", "out/f", "out/l", "out/none"]);
    let result = house.ok(&new).await.result.unwrap();
    assert_eq!(paths(&result), [vec!["out/f"], vec!["out/d"], vec!["out/dl", "out/l"]]);
    assert!(result.output_file_symlinks.is_empty() && result.output_directory_symlinks.is_empty());

    // Declared directories of the old form are there before the command.
    let mut old = Job::new(&format!("rmdir out/dl; {MAKE}"));
    old.command.output_files = ["out/f", "out/l"].map(String::from).to_vec();
    old.command.output_directories = ["out/d", "out/dl"].map(String::from).to_vec();
    let result = house.ok(&old).await.result.unwrap();
    assert_eq!(paths(&result)[..2], [vec!["out/f"], vec!["out/d"]]);
    assert_eq!(result.output_file_symlinks[0].path, "out/l");
    assert_eq!(result.output_directory_symlinks[0].path, "out/dl");

    // Where both forms are given, the new one counts.
    old.command.output_paths = vec!["out/f".into()];
    old.command.arguments[2] = MAKE.into();
    assert_eq!(paths(&house.ok(&old).await.result.unwrap()), [vec!["out/f"], vec![], vec![]]);
}

#[tokio::test]
async fn directories_come_as_trees_or_as_directories_and_are_cached_in_either_form() {
    let house = House::new().await;
    for (format, tree, root) in [
        (OutputDirectoryFormat::TreeOnly, true, false),
        (OutputDirectoryFormat::DirectoryOnly, false, true),
        (OutputDirectoryFormat::TreeAndDirectory, true, true),
    ] {
        let mut job = Job::new(&format!("{MAKE}; ln -s ../../x out/d/up")).paths(&["out/d"]);
        job.command.output_directory_format = format.into();
        for cached in [false, true] {
            let response = house.ok(&job).await;
            assert_eq!(response.cached_result, cached, "{format:?}");
            let output = response.result.unwrap().output_directories.remove(0);
            assert_eq!((output.tree_digest.is_some(), output.root_directory_digest.is_some()), (tree, root));
        }
    }
}

#[tokio::test]
async fn absolute_links_are_no_outputs() {
    let house = House::new().await;
    let job = Job::new("mkdir d; ln -s /usr/lib d/away").paths(&["d"]);
    let (code, error) = house.execute(&job).await.error.expect("it is refused");
    assert_eq!(code, Code::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("d/away"), "{error}");
    assert_eq!(house.cached(&job, job.upload(&house).await).await, None);
}

#[tokio::test]
async fn each_digest_function_has_actions_of_its_own() {
    let house = House::new().await;
    for function in DigestFunction::ALL {
        let content = house.put(function, "content\n").await;
        let sub = house.put(function, directory(&[("in", &content)], &[], &[])).await;
        let root = house.put(function, directory(&[], &[("sub", &sub)], &[])).await;
        let script = "cat sub/in; mkdir -p out/d; cp sub/in out/d/copy; echo more > out/f";
        let job = Job { function, ..Job::new(script).root(root).paths(&["out/d", "out/f"]) };
        for cached in [false, true] {
            let response = house.ok(&job).await;
            assert_eq!(response.cached_result, cached, "{function}");
            let result = response.result.unwrap();
            assert_eq!(result.stdout_raw, "content\n");
            assert_eq!(house.get(function, result.stdout_digest.as_ref()).await, "content\n");
            assert_eq!(house.get(function, result.output_files[0].digest.as_ref()).await, "more\n");
            let tree = house.get(function, result.output_directories[0].tree_digest.as_ref()).await;
            let tree = mortar_wire::decode_tree(function, tree).unwrap();
            assert_eq!(mortar_wire::digest_to_wire(tree.root.files[0].digest), content);
        }
    }
    assert_eq!(house.scheduler.status().await.counters.executed, 2);
}

#[tokio::test]
async fn a_result_of_many_megabytes_costs_no_session() {
    let house = House::new().await;
    let script =
        "target=$(head -c 3000 /dev/zero | tr '\\0' x); for i in $(seq 2000); do ln -s $target l$i; done";
    let links: Vec<String> = (1..=2000).map(|number| format!("l{number}")).collect();
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let result = house.ok(&Job::new(script).paths(&links)).await.result.unwrap();
    assert_eq!(result.output_symlinks.len(), 2000);
    assert_eq!(house.scheduler.status().await.counters.retried, 0);
}
