//! Directories that are named relative to where `mortar` was started.

use crate::{
    LIMIT,
    action::{client, execute, marker, upload_nap},
    mortar,
};
use mortar_testkit::process::{Running, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn actions_run_below_a_relative_directory() {
    for isolation in ["namespaces", "none"] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["up", "--listen", "127.0.0.1:0", "--dir", "data", "--isolation", isolation];
        let running = Running::start(&mut mortar(directory.path(), &arguments)).unwrap();
        let line = || {
            let said = running.stdout()?;
            Ok(said.lines().find_map(|line| line.strip_prefix("ready ")).map(str::to_owned))
        };
        let url = wait_until("the ready line", LIMIT, line).unwrap();
        let worker = Running::start(&mut mortar(
            directory.path(),
            &["worker", "--server", &url, "--dir", "work", "--isolation", isolation],
        ))
        .unwrap();
        let connected = || Ok(worker.stderr()?.contains("connected to the server").then_some(()));
        wait_until("the worker's session", LIMIT, connected).unwrap();
        let remote = client(&url);
        // As many at a time as make both workers run some.
        let mut naps = Vec::new();
        for _ in 0..8 {
            let (remote, nap) = (remote.clone(), upload_nap(&remote, &marker(), 1).await);
            naps.push(tokio::spawn(async move { execute(&remote, nap).await }));
        }
        let mut workers = std::collections::BTreeSet::new();
        for nap in naps {
            let outcome = nap.await.unwrap().unwrap_or_else(|error| panic!("{isolation}: {error}"));
            assert_eq!(outcome.result.exit_code, 0, "{isolation}: {outcome:?}");
            workers.insert(outcome.result.metadata.worker);
        }
        assert_eq!(workers.len(), 2, "{workers:?}");
    }
}
