//! What a persistent worker is asked, what it sees, and who shares it.

use crate::lab::{FUNCTION, Job, Lab};
use mortar_model::Digest;

#[tokio::test]
async fn one_process_does_one_action_after_the_other_in_both_protocols() {
    let lab = Lab::new().await;
    for new in [Job::new, Job::json] {
        let mut processes = Vec::new();
        for turn in 1..=3 {
            let job = new(&format!("copy in/text out/dir/copy; who; say turn {turn}"));
            let content = format!("content {turn}");
            let job = job.input("in/text", &content).output("out/dir/copy");
            let outcome = lab.run(&job).await.unwrap();
            let result = outcome.result;
            assert_eq!((result.exit_code, outcome.message.as_str()), (0, ""));
            assert_eq!(result.files[0].path, "out/dir/copy");
            assert_eq!(lab.text(Some(result.files[0].digest)).await, content);
            assert_eq!(result.metadata.persistent_worker.unwrap().requests, turn);
            assert!(result.metadata.virtual_execution_duration.is_some() && result.stdout_digest.is_none());
            let said = lab.text(result.stderr_digest).await;
            let (who, rest) = said.split_once('\n').unwrap();
            assert_eq!(rest, format!("turn {turn}\n"));
            assert!(who.contains(&format!(" {turn} ['PATH'")), "{who}");
            processes.push(who.split_once(' ').unwrap().0.to_owned());
            assert!(lab.is_recorded(&job).await);
        }
        assert!(processes.iter().all(|process| *process == processes[0]), "{processes:?}");
    }
}

#[tokio::test]
async fn what_it_says_is_the_result() {
    let lab = Lab::new().await;
    let job = Job::json("write out/part x; say why it failed; exit 3; complain not this").output("out/part");
    let outcome = lab.run(&job).await.unwrap();
    assert_eq!(outcome.result.exit_code, 3);
    assert_eq!(lab.text(outcome.result.stderr_digest).await, "why it failed\n");
    assert_eq!(outcome.result.files.len(), 1);
    assert!(!lab.is_recorded(&job).await);
    // A failed action is no failed worker.
    assert_eq!(lab.told(&Job::json("say next")).await, ("next\n".into(), 2));
}

#[tokio::test]
async fn each_request_names_all_files_and_sees_no_others() {
    let lab = Lab::new().await;
    for new in [Job::new, Job::json] {
        let first = new("copy in/b out/x; write out/undeclared x; list .; inputs").input("in/b", "old");
        let (said, requests) = lab.told(&first.output("out/x")).await;
        let hash = |text: &str| Digest::of(FUNCTION, text.as_bytes()).hex().to_string();
        assert!(said.contains("args bin/data bin/tool.py in/b out/undeclared out/x\n"), "{said}");
        assert!(said.contains(&format!("bin/data={} ", hash("of the tool"))), "{said}");
        assert!(said.contains(&format!("in/b={}\n", hash("old"))), "{said}");
        assert_eq!(requests, 1);
        let second = new("list .; copy in/b out/y").input("in/b", "new").input("in/c", "c").output("out/y");
        let (said, requests) = lab.told(&second).await;
        assert_eq!((said.as_str(), requests), ("args bin/data bin/tool.py in/b in/c\n", 2));
    }
}

#[tokio::test]
async fn it_starts_with_the_inputs_of_its_first_request() {
    let lab = Lab::new().await;
    let job = |content: &str| Job::json("early; copy in/early out").input("in/early", content).output("out");
    assert_eq!(lab.told(&job("first")).await, ("first\n".into(), 1));
    assert_eq!(lab.told(&job("second")).await, ("first\n".into(), 2));
}

#[tokio::test]
async fn outputs_beside_its_tool_and_below_directories_of_its_own() {
    let lab = Lab::new().await;
    for turn in ["one", "two"] {
        let job = Job::new(&format!("list bin; write bin/out/file {turn}; write bin/beside {turn}"));
        let job = job.output("bin/out/file").output("bin/beside");
        let outcome = lab.run(&job).await.unwrap();
        assert_eq!(lab.text(outcome.result.stderr_digest).await, "bin/data bin/tool.py\n");
        assert!(outcome.result.metadata.persistent_worker.is_some(), "{}", outcome.message);
        for file in &outcome.result.files {
            assert_eq!(lab.text(Some(file.digest)).await, turn);
        }
        assert_eq!(outcome.result.files.len(), 2);
    }
}

#[tokio::test]
async fn flag_files_name_flag_files_and_paths_are_from_where_it_starts() {
    let lab = Lab::new().await;
    let mut job =
        Job::new("say first; @sub/more; @@escaped; @label//x; say last").input("sub/more", "say more\r\n");
    job.arguments.push("--flagfile=passed/on".into());
    assert_eq!(lab.told(&job).await, ("first\nmore\nlast\n".into(), 1));

    let mut job = Job::new("").input("wd/args", "inputs\ncopy x out").input("wd/x", "text").output("out");
    job.working_directory = "wd".into();
    job.arguments[1] = "../bin/tool.py".into();
    for turn in 1..=2 {
        let (said, requests) = lab.told(&job.clone().input("other", &turn.to_string())).await;
        assert!(said.contains(" x=") && said.contains("../bin/tool.py=") && requests == turn, "{said}");
    }
}

#[tokio::test]
async fn a_process_is_shared_by_those_alone_that_would_start_the_same() {
    let lab = Lab::with(|config| config.slots = 16).await;
    let job = || Job::new("say x");
    let mut variable = job();
    variable.environment.push(("NEW".into(), "1".into()));
    let mut instance = job();
    instance.instance = "other".into();
    let different = [
        job(),
        job().tool("bin/data", "of another tool"),
        job().tool("bin/more", "of the tool"),
        job().argument("--start"),
        job().with("OSFamily", "Linux"),
        Job { platform: vec![("persistentWorkerKey".into(), "another".into())], ..job() },
        variable,
        instance,
        Job::json("say x"),
    ];
    for (index, job) in different.iter().enumerate() {
        assert_eq!(lab.told(job).await.1, 1, "{index}");
    }
    for (index, job) in different.iter().enumerate() {
        assert_eq!(lab.told(&job.clone().input("new", "input")).await.1, 2, "{index}");
    }
}

#[tokio::test]
async fn without_marks_the_programme_with_its_runfiles_is_the_tool() {
    let lab = Lab::new().await;
    let job = |library: &str| {
        let script = "#!/bin/sh\nexec /usr/bin/python3 bin/run.runfiles/tool.py \"$@\"\n";
        let mut job = Job::new("say x");
        let (tool, _) = job.inputs.remove("bin/tool.py").unwrap();
        job.inputs.insert("bin/run.runfiles/tool.py".into(), (tool, false));
        job.arguments = ["bin/run", "@args"].map(String::from).to_vec();
        job.input("bin/run", script).input("bin/run.runfiles/library", library).unmarked()
    };
    assert_eq!(lab.told(&job("a")).await.1, 1);
    assert_eq!(lab.told(&job("a").input("bin/data", "changed")).await.1, 2);
    assert_eq!(lab.told(&job("b")).await.1, 1);
}

#[tokio::test]
async fn what_cannot_have_one_is_run_without_and_told_why() {
    let lab = Lab::new().await;
    let job = || Job::new("who");
    let mut no_flags = job();
    no_flags.arguments = ["/bin/true", "x"].map(String::from).to_vec();
    let mut outside = job().unmarked();
    outside.arguments[0] = "/usr/bin/python3".into();
    let mut own = Job::new("write bin/data x");
    own.outputs.push("bin/data".into());
    let cases = [
        (job().with("persistentWorkerProtocol", "xml"), "`xml`"),
        (no_flags, "flag file"),
        (outside, "marked"),
        (Job::new("@nowhere"), "`nowhere`"),
        (Job::new("@args"), "too many"),
        (own, "`bin/data`"),
    ];
    for (job, told) in cases {
        let outcome = lab.run(&job).await.unwrap();
        assert!(outcome.message.contains(told), "{told}: {}", outcome.message);
        assert_eq!(
            (outcome.result.exit_code, outcome.result.metadata.persistent_worker),
            (0, None),
            "{told}"
        );
    }
    for job in [job().plain(), Job { platform: vec![("persistentWorkerKey".into(), "".into())], ..job() }] {
        let outcome = lab.run(&job).await.unwrap();
        assert_eq!((outcome.message.as_str(), outcome.result.metadata.persistent_worker), ("", None));
        assert!(lab.text(outcome.result.stderr_digest).await.starts_with("alone"));
    }
    assert_eq!(lab.worker.idle_persistent_workers(), 0);
}
