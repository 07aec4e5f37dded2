//! `mortar bazelrc`: lines for good addresses, a message for others.

use crate::{assert_refused, run};

#[test]
fn good_addresses_give_lines() {
    let anywhere = tempfile::tempdir().unwrap();
    for (arguments, url) in [
        (&["bazelrc"][..], "grpc://127.0.0.1:8980"),
        (&["bazelrc", "grpc://build.example:443"], "grpc://build.example:443"),
        (&["bazelrc", "grpc://[::1]:80"], "grpc://[::1]:80"),
        (&["bazelrc", "unix:/run/mortar.sock"], "unix:/run/mortar.sock"),
    ] {
        let finished = run(anywhere.path(), arguments);
        assert_eq!((finished.status.code(), finished.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let lines: Vec<_> = finished.stdout.lines().collect();
        assert!(lines.contains(&format!("build --remote_executor={url}").as_str()), "{lines:#?}");
        assert!(
            lines.iter().all(|line| line.starts_with("build --") || line.starts_with("# ")),
            "{lines:#?}"
        );
    }
}

#[test]
fn bad_addresses_are_refused() {
    for (url, why, hint) in BAD {
        refused(&["bazelrc", url], url, why, hint);
    }
}

#[test]
fn a_worker_refuses_the_same() {
    for (url, why, hint) in BAD {
        refused(&["worker", "--server", url, "--dir", "work"], url, why, hint);
    }
}

const BAD: &[(&str, &str, &str)] = &[
    ("127.0.0.1:8980", "has no scheme", "perhaps grpc://127.0.0.1:8980"),
    ("grpc://host", "has no host and port", ""),
    ("grpc://host:port", "has no host and port", ""),
    ("grpc://:80", "has no host and port", ""),
    ("http://host:80", "is the HTTP cache, which does not execute", "grpc://host:80"),
    ("grpcs://host:443", "asks for TLS, which this server does not speak", ""),
    ("ftp://host:21", "has an unknown scheme", ""),
    ("unix:", "names no path", ""),
];

#[track_caller]
fn refused(arguments: &[&str], url: &str, why: &str, hint: &str) {
    let directory = tempfile::tempdir().unwrap();
    let hint = if hint.is_empty() { String::new() } else { format!("\nHint: {hint}") };
    let said = format!("error: `{url}` {why}; expected grpc://HOST:PORT or unix:PATH{hint}\n");
    assert_refused(&run(directory.path(), arguments), 1, &said);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{arguments:?}");
}
