//! Blobs that are lost or damaged behind the server's back, while Bazel 4.2.3 has only heard of them
//! (`--remote_download_minimal`): it builds on, what is needed of them is made again, and nothing of that is seen.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mortar_model::{Digest, DigestFunction};
use mortar_testkit::bazel::{Bazel, Build, Outputs, Project};
use mortar_testkit::conformance::Random;
use mortar_testkit::harm::{Harm, harm};
use mortar_testkit::http;
use mortar_testkit::mortar::{Mortar, Worker};

use crate::{MORTAR, assert_all_remote};

/// Sources that need outputs of others and whose change is a comment.
const EDITED: [(&str, &str); 4] = [
    ("rules/join.sh", "# edited\n"),
    ("rules/results_test.sh", "# edited\n"),
    ("shell/tool_test.sh", "# edited\n"),
    ("cpp/greeting_test.cc", "// edited\n"),
];

#[test]
fn a_build_goes_on_with_the_worker_of_the_same_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Mortar::up(MORTAR, dir.path())?;
    goes_on(&server, dir.path())?;
    Ok(())
}

/// With a single slot, nothing could go on if a worker ever waited for what another one makes.
#[test]
fn a_build_goes_on_with_a_worker_of_one_slot_elsewhere() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("server");
    let server = Mortar::server(MORTAR, &data)?;
    let _worker = Worker::start(MORTAR, &server.grpc(), &dir.path().join("worker"), &["--slots", "1"])?;
    // The worker has a store of its own, which loses the same.
    goes_on(&server, dir.path())?;
    Ok(())
}

/// Builds, has blobs lost, builds on; how many blobs were lost.
pub fn goes_on(server: &Mortar, data: &Path) -> Result<usize> {
    let mut bazel = Bazel::v4(&Project::mixed()?)?;
    bazel.set_flags(&[&format!("--remote_executor={}", server.grpc())]);
    let all = bazel.test(&[], &["//..."])?;
    assert_all_remote(all.success()?);
    let outputs = bazel.outputs()?;
    bazel.clean()?;
    let minimal = ["--remote_download_minimal"];
    bazel.test(&minimal, &["//..."])?.success()?;

    let lost = lose_some(&outputs, &bazel.workspace(), data)?;
    edit(&bazel)?;
    let before = figures(server)?;
    let build = bazel.test(&minimal, &["//..."])?;
    let run_by_bazel = quiet_success(&build)?;
    let after = figures(server)?;
    let again = after.rewound - before.rewound;
    assert!(run_by_bazel > 0 && again > 0, "{run_by_bazel} actions of Bazel, {again} of lost blobs");
    assert!(again <= lost as u64, "{again} actions ran again, and {lost} blobs were lost");
    assert_eq!(
        after.executed - before.executed,
        run_by_bazel + again,
        "{before:?} {after:?} {}",
        server.log()?
    );
    assert_eq!(after.not_made, 0, "{after:?}");

    // What was not needed until now is needed to have all outputs here.
    bazel.clean()?;
    let whole = bazel.test(&[], &["//..."])?;
    quiet_success(&whole)?;
    let edited = |line: &String| !line.contains("greeting_test") && !line.contains("testlogs");
    let differences: Vec<_> = outputs.differences(&bazel.outputs()?).into_iter().filter(edited).collect();
    assert_eq!(differences, Vec::<String>::new());
    Ok(lost)
}

/// Harms half of all outputs, one way or the other; how many. Not those that are copies of sources: a source comes from
/// the client alone, which brings it when an action of its own lacks it, but not for others.
fn lose_some(outputs: &Outputs, workspace: &Path, data: &Path) -> Result<usize> {
    let source = std::fs::read(workspace.join("gen/input.txt"))?;
    let made = outputs.files().filter(|(_, content)| !content.is_empty() && *content != source);
    let (mut random, mut lost, mut all) = (Random::new(), 0, 0);
    for (path, content) in made {
        all += 1;
        // These two are needed by what is edited, whatever chance says.
        let needed = path.ends_with("gen/chain_4.txt") || path.ends_with("rules/listed.txt");
        if !needed && random.number() % 2 == 0 {
            continue;
        }
        let how = if random.number() % 2 == 0 { Harm::Remove } else { Harm::Flip };
        let digest = Digest::of(DigestFunction::Sha256, content);
        lost += usize::from(harm(data, digest.hash(), how)?);
    }
    ensure!(lost >= 5, "{lost} of {all} outputs were found in the store");
    Ok(lost)
}

fn edit(bazel: &Bazel) -> Result<()> {
    for (path, line) in EDITED {
        let path: PathBuf = bazel.workspace().join(path);
        OpenOptions::new().append(true).open(path)?.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// A success of which Bazel says nothing bad; how many actions it had run.
fn quiet_success(build: &Build) -> Result<u64> {
    let processes = build.success()?;
    assert_eq!(processes.local(), 0, "{processes:?}");
    for line in build.finished.stderr.lines() {
        let bad = ["ERROR", "WARNING: Remote", "lost", "missing", "failed"];
        ensure!(!bad.iter().any(|word| line.contains(word)), "Bazel said: {}", build.finished.stderr);
    }
    Ok(processes.remote())
}

#[derive(Debug)]
struct Figures {
    executed: u64,
    rewound: u64,
    not_made: u64,
}

fn figures(server: &Mortar) -> Result<Figures> {
    let answer = http::get(server.address(), "/status.json")?;
    let status: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let figure =
        |part: &str, name: &str| status[part][name].as_u64().with_context(|| format!("no {part}/{name}"));
    Ok(Figures {
        executed: figure("executions", "executed")?,
        rewound: figure("rewinding", "attempted")?,
        not_made: figure("rewinding", "failed")?,
    })
}
