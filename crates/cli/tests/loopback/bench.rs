//! `mortar bench` as a process, against a server in this one.

use serde_json::Value;
use std::process::Output;

async fn bench(arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mortar"));
    command.arg("bench").args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_of_a_cache_has_figures() {
    let directory = tempfile::tempdir().unwrap();
    let url = crate::serve("127.0.0.1:0", directory.path()).await;
    for function in ["sha256", "blake3"] {
        let output = bench(&[
            &url,
            "--json",
            "--duration=20ms",
            "--concurrency=3",
            "--large-size=2500KiB",
            "--instance=main",
            "--digest-function",
            function,
            "--scenarios=find-missing,batch,stream,action,mix",
        ])
        .await;
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (report["url"].as_str(), report["digest_function"].as_str()),
            (Some(&*url), Some(function))
        );
        assert!(report["cores"].as_u64() > Some(0));
        let scenarios = report["scenarios"].as_array().unwrap();
        assert_eq!(scenarios.len(), 15);
        for scenario in scenarios {
            assert!(scenario["skipped"].is_null() && scenario["errors"] == 0, "{scenario}");
            assert!(
                scenario["calls"].as_u64() > Some(0) && scenario["items"].as_u64() > Some(0),
                "{scenario}"
            );
            let latency = |share: &str| scenario["latency_ms"][share].as_f64().unwrap();
            assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{scenario}");
        }
        let of = |name: &str| scenarios.iter().find(|scenario| scenario["name"] == name).unwrap();
        for name in ["stream-write-large", "stream-read-large"] {
            let scenario = of(name);
            assert_eq!(
                scenario["bytes"].as_u64().unwrap(),
                scenario["calls"].as_u64().unwrap() * 2500 * 1024
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_are_compared_in_turn() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = crate::serve("127.0.0.1:0", first.path()).await;
    let other = crate::serve("127.0.0.1:0", second.path()).await;
    let (process, limits) = (std::process::id().to_string(), first.path().join("limits"));
    let arguments = [
        &url,
        "--against",
        &other,
        "--rounds=3",
        "--server-pid",
        &process,
        "--against-pid",
        &process,
        "--limits",
        limits.to_str().unwrap(),
        "--content=text",
        "--duration=20ms",
        "--concurrency=3",
        "--scenarios=batch,mix",
    ];
    let output = bench(&[&arguments[..], &["--json"]].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["against"].as_str(), report["content"].as_str()), (Some(&*other), Some("text")));
    assert!(report["machine"]["loopback_bytes_per_second"].as_f64() > Some(0.0), "{}", report["machine"]);
    let scenarios = report["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 3);
    for scenario in scenarios {
        let (against, ratio) = (&scenario["against"]["figures"], &scenario["against"]["ratio"]);
        for figures in [scenario, against] {
            assert!(figures["calls"].as_u64() > Some(0) && figures["errors"] == 0, "{scenario}");
            assert!(figures["server_cpu_seconds"].is_number(), "{scenario}");
            assert!(figures["cpu_seconds_per_gb"].is_number(), "{scenario}");
        }
        assert_eq!(ratio["rounds"].as_array().unwrap().len(), 3);
        let [min, median, max] = ["min", "median", "max"].map(|field| ratio[field].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{ratio}");
        assert_eq!(scenario["share"].is_null(), scenario["name"] == "mix", "{scenario}");
    }
    let table = bench(&arguments).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for head in ["against", "this machine", "CPU s/GB", "of limit", "ratio"] {
        assert!(table.contains(head), "`{head}` is not in\n{table}");
    }
}

/// What is read was written to another server, of which the first one is a companion.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_may_be_elsewhere() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let behind = crate::serve("127.0.0.1:0", first.path()).await;
    let alone = crate::serve("127.0.0.1:0", second.path()).await;
    let flags =
        ["--duration=20ms", "--concurrency=1", "--scenarios=action-get,stream-read", "--fill", &behind];
    let output = bench(&[&[&*behind], &flags[..]].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
    let output = bench(&[&[&*alone], &flags[..]].concat()).await;
    assert!(!output.status.success() && said(&output).contains("not found"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_wait_are_held() {
    let directory = tempfile::tempdir().unwrap();
    let process = std::process::id().to_string();
    for flag in [None, Some("--same-action")] {
        // New each time: for a while after its start, actions wait for workers to come.
        let place = directory.path().join(flag.unwrap_or("--own-actions"));
        let url = crate::serve("127.0.0.1:0", &place).await;
        let arguments =
            ["streams", &url, "--streams=300", "--connections=3", "--hold=0s", "--json", "--pid", &process];
        let output = bench(&arguments.into_iter().chain(flag).collect::<Vec<_>>()).await;
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((report["streams"].as_u64(), report["ended"].as_u64()), (Some(300), Some(0)));
        assert!(report["processes"][0]["bytes_per_stream"].is_number(), "{report}");
    }
    let output = bench(&["streams", &crate::executing::cache_alone(directory.path()).await]).await;
    assert!(said(&output).contains("executes nothing"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn execution_is_left_out_where_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let url = crate::executing::cache_alone(directory.path()).await;
    let output = bench(&[&url, "--duration=20ms", "--scenarios=execute,action-get"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("skipped: the server has no execution") && table.contains("action-get"),
        "{table}"
    );
}

#[tokio::test]
async fn what_failed_is_said() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("grpc://{free}");
    for (arguments, needle) in [
        (vec![&*url], &*url),
        (vec!["localhost:8980"], "expected `grpc://HOST:PORT`"),
        (vec![&*url, "--scenarios=nothing"], "no scenario `nothing`"),
        (vec![&*url, "--large-size=1B"], "--large-size"),
        (vec![&*url, "--duration=0s"], "--duration"),
        (vec![&*url, "--digest-function=md5"], "md5"),
        (vec![&*url, "--exec-property=novalue"], "NAME=VALUE"),
        (vec![&*url, "--against-pid=1"], "--against"),
        (vec![], "<URL>"),
    ] {
        let output = bench(&arguments).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(said(&output).contains(needle), "{arguments:?}: {}", said(&output));
    }
}
