//! `mortar bench store`: each of its modes, with little to do. What it takes is not looked at, only that it is told.

use crate::run;
use serde_json::Value;
use std::{fs, path::Path};

/// The report of a run that must succeed.
#[track_caller]
fn report(directory: &Path, flags: &[&str]) -> Value {
    let finished = run(directory, &[&["bench", "store", "there", "--json"], flags].concat());
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

#[track_caller]
fn expect_numbers(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value[field].is_number(), "no number `{field}` in {value}");
    }
}

const SMALL: [&str; 4] = ["--duration=20ms", "--concurrency=2", "--large-size=2500KiB", "--max-size=500MiB"];

#[test]
fn every_scenario_runs_on_every_engine() {
    for (engine, content, scenarios) in [("disk", "text", 12), ("files", "random", 10)] {
        let directory = tempfile::tempdir().unwrap();
        let flags = [&SMALL[..], &["--engine", engine, "--content", content]].concat();
        let report = report(directory.path(), &flags);
        assert_eq!((report["engine"].as_str(), report["content"].as_str()), (Some(engine), Some(content)));
        assert_eq!(report["page_cache"], "warm");
        let rows = report["scenarios"].as_array().unwrap();
        assert_eq!(rows.len(), scenarios, "{engine}");
        for row in rows {
            assert!(row["calls"].as_u64() > Some(0) && row["errors"] == 0, "{row}");
            expect_numbers(row, &["items_per_second", "client_cpu_seconds"]);
            assert!(row["latency_ms"]["p50"].as_f64() <= row["latency_ms"]["max"].as_f64(), "{row}");
        }
        let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
        for name in ["stream-write-large", "stream-read-large"] {
            let row = of(name);
            assert_eq!(row["bytes"].as_u64().unwrap(), row["calls"].as_u64().unwrap() * 2500 * 1024);
            expect_numbers(row, &["cpu_seconds_per_gb"]);
        }
        for name in ["batch-write", "batch-read", "find-missing-100"] {
            let row = of(name);
            assert_eq!(row["items"].as_u64().unwrap(), row["calls"].as_u64().unwrap() * 100);
        }
    }
}

#[test]
fn a_filled_store_is_opened_in_another_process() {
    let directory = tempfile::tempdir().unwrap();
    for engine in ["disk", "files"] {
        let flags = ["--blobs=300", "--size=100B", "--duration=20ms", "--engine", engine];
        let report = report(directory.path(), &flags);
        assert_eq!(report["filled"]["blobs"], 300);
        expect_numbers(
            &report["filled"],
            &["seconds", "blobs_per_second", "bytes_per_second", "cpu_seconds"],
        );
        let opening = &report["opening"];
        expect_numbers(
            opening,
            &[
                "open_seconds",
                "rss_anon_before",
                "rss_anon_open",
                "rss_anon_after",
                "rss_anon_bytes_per_blob",
            ],
        );
        assert!(opening["open_seconds"].as_f64() <= opening["first_answer_seconds"].as_f64(), "{opening}");
        assert!(opening["find_missing_calls"].as_u64() >= Some(64), "{opening}");
        assert!(
            opening["find_missing_p50_ms"].as_f64() <= opening["find_missing_p99_ms"].as_f64(),
            "{opening}"
        );
        // Half of every question is of blobs that were written, and all of these are there.
        assert_eq!((opening["asked"].as_u64(), opening["missing"].as_u64()), (Some(64 * 500), Some(0)));
        // Nothing else runs if nothing else was named.
        assert_eq!(report["scenarios"].as_array().unwrap().len(), 0);
    }
}

/// The store is written over before builds are measured again, and keeps its promises.
#[test]
fn builds_on_a_store_that_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--fill=110", "--max-size=100MiB", "--concurrency=1", "--duration=400ms", "--content=text"];
    let report = report(directory.path(), &flags);
    let endurance = &report["endurance"];
    assert!(endurance["filled_percent"].as_f64() >= Some(110.0), "{endurance}");
    assert!(endurance["evictions"].as_u64() > Some(0), "{endurance}");
    assert_eq!((&endurance["lease_violations"], &endurance["dangling_results"]), (&0.into(), &0.into()));
    expect_numbers(endurance, &["throughput_ratio", "slowest_ratio", "refused", "promises"]);
}

#[test]
fn cold_reads_and_shares_of_the_limits() {
    let directory = tempfile::tempdir().unwrap();
    let scenarios = "--scenarios=batch,stream-read-small,stream-write-large,find-missing-1";
    let flags = [&SMALL[..], &["--cold", "--limits", scenarios]].concat();
    let report = report(directory.path(), &flags);
    assert_eq!(report["page_cache"], "cold");
    let machine = [
        "hash_bytes_per_second",
        "write_and_sync_bytes_per_second",
        "cached_read_bytes_per_second",
        "synced_files_per_second",
        "synced_files_at_once_per_second",
        "loopback_bytes_per_second",
    ];
    for limit in machine {
        assert!(report["machine"][limit].as_f64() > Some(0.0), "{limit}: {}", report["machine"]);
    }
    let rows = report["scenarios"].as_array().unwrap();
    for row in rows {
        let limit = match row["name"].as_str().unwrap() {
            "batch-write" => vec!["synced_files"],
            "stream-write-large" => vec!["hash", "write_and_sync"],
            "find-missing-1" => {
                assert!(row["share"].is_null(), "{row}");
                continue;
            }
            _ => vec!["cached_read"],
        };
        assert!(limit.contains(&row["share"]["limit"].as_str().unwrap()), "{row}");
        assert!(row["errors"] == 0 && row["share"]["ratio"].as_f64() >= Some(0.0), "{row}");
    }
    assert_eq!(rows.len(), 5);
    assert!(!directory.path().join("there/mortar-bench-limits").exists());
}

#[test]
fn tables_are_for_people() {
    let directory = tempfile::tempdir().unwrap();
    for (flags, needles) in [
        (vec!["--scenarios=mix", "--concurrency=2"], vec!["page cache warm", "calls/s", "CPU s/GB", "mix "]),
        (vec!["--blobs=70", "--size=64B"], vec!["filled with 70 blobs", "first answer after"]),
        (
            vec!["--fill=1", "--max-size=50MiB", "--concurrency=1", "--engine=files"],
            vec!["0 lease violations", "evictions: none"],
        ),
    ] {
        let arguments = [&["bench", "store", "there", "--duration=100ms"], &flags[..]].concat();
        let finished = run(directory.path(), &arguments);
        assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
        for needle in needles {
            assert!(finished.stdout.contains(needle), "`{needle}` is not in\n{}", finished.stdout);
        }
    }
}

#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("there")).unwrap();
    fs::write(directory.path().join("there/precious"), "data").unwrap();
    let finished = run(directory.path(), &["bench", "store", "there"]);
    let expected = "error: `there` is neither empty nor made by `mortar bench store`, which fills it as it likes\n\
                    Hint: name a new directory\n";
    crate::assert_refused(&finished, 1, expected);
    assert_eq!(fs::read_dir(directory.path().join("there")).unwrap().count(), 1);
    for (flag, needle) in [
        ("--size=10B", "--blobs"),
        ("--scenarios=execute", "no scenario `execute`"),
        ("--engine=tape", "tape"),
        ("--large-size=1B", "--large-size"),
        ("--duration=0s", "--duration"),
    ] {
        let finished = run(directory.path(), &["bench", "store", "elsewhere", flag]);
        assert!(
            !finished.status.success() && finished.stderr.contains(needle),
            "{flag}: {}",
            finished.stderr
        );
        assert!(!directory.path().join("elsewhere").exists(), "{flag}");
    }
}
