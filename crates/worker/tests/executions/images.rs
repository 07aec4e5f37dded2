//! Actions that ask for an image: they go to a worker that has it, also when it came later, and see nothing else.

use crate::{House, job::Job, until};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

/// A root file system in which the host's shell is in `/special/bin`.
fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let put = |from: &Path, to: &str| {
        let to = root.path().join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    put(Path::new("/bin/bash"), "special/bin/shell");
    let libraries = String::from_utf8(Command::new("ldd").arg("/bin/bash").output().unwrap().stdout).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        put(Path::new(library), library);
    }
    root
}

fn job(image: &str) -> Job {
    let script = "[ -e /bin/bash ] && echo host; echo ${BASH} > out; echo done";
    let mut job = Job::new(script).paths(&["out"]).image(image);
    job.command.arguments[0] = "/special/bin/shell".into();
    job
}

#[tokio::test]
async fn an_action_runs_in_the_image_that_it_names() {
    let house = House::without_worker().await;
    let imported = house.images().import(root().path(), "debian:12").unwrap();
    house.hire().await;
    let by_digest = format!("docker://debian@sha256:{}", imported.digest);
    for name in ["debian:12", "docker://debian:12", &by_digest] {
        let job = job(name);
        let response = house.ok(&job).await;
        let result = response.result.unwrap();
        assert_eq!(String::from_utf8_lossy(&result.stdout_raw), "done\n", "{name}");
        let out = house.get(job.function, result.output_files[0].digest.as_ref()).await;
        assert_eq!(&out[..], b"/special/bin/shell\n");
    }
    house.ok(&Job::new("[ -e /bin/bash ] && [ ! -e /special ]")).await;
}

#[tokio::test]
async fn an_image_that_comes_later_is_announced() {
    let house = House::new().await;
    let images = async || house.scheduler.status().await.workers.into_iter().flat_map(|worker| worker.images);
    until("there is a worker", async || house.scheduler.status().await.workers.len() == 1).await;
    assert_eq!(images().await.count(), 0);
    let running = {
        let job = job("late");
        let action = job.upload(&house).await;
        house.start(&job, action).await
    };
    let imported = house.images().import(root().path(), "late").unwrap();
    let ended = crate::Ended::of(running).await;
    assert!(ended.error.is_none(), "{:?}", ended.error);
    assert_eq!(ended.response.result.unwrap().exit_code, 0);
    assert!(images().await.any(|image| image == format!("late@sha256:{}", imported.digest)));
}
