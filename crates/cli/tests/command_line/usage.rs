//! Command lines that cannot be read: exit code 2, one error on stderr, nothing on disk.

use crate::{assert_refused, disk::listing, mortar, run};
use mortar_testkit::process;

const MORE: &str = "\n\nFor more information, try '--help'.\n";

#[test]
fn unknown_words() {
    for (arguments, said) in [
        (
            &["up", "--sluts", "3"][..],
            "unexpected argument '--sluts' found\n\n  tip: a similar argument exists: '--slots'\n\nUsage: mortar up --slots <NUMBER>",
        ),
        (
            &["upp"],
            "unrecognized subcommand 'upp'\n\n  tip: a similar subcommand exists: 'up'\n\nUsage: mortar <COMMAND>",
        ),
        (
            &["worker"],
            "the following required arguments were not provided:\n  --server <URL>\n\nUsage: mortar worker --server <URL>",
        ),
        (
            &["up", "--isolation", "chroot"],
            "invalid value 'chroot' for '--isolation <ISOLATION>'\n  [possible values: namespaces, none]",
        ),
    ] {
        refused(arguments, said);
    }
}

#[test]
fn malformed_values() {
    let size = "is no size; expected one such as 500MiB or 100GiB";
    let span = "is no duration; expected one such as 500ms, 30s, 10min, 2h or 7d";
    for (flag, placeholder, value, why) in [
        ("--max-size", "<SIZE>", "5", format!("`5` {size}")),
        ("--max-size", "<SIZE>", "1.5GiB", format!("`1.5GiB` {size}")),
        ("--max-size", "<SIZE>", "100 gigabytes", format!("`100 gigabytes` {size}")),
        ("--default-timeout", "<DURATION>", "30", format!("`30` {span}")),
        ("--max-timeout", "<DURATION>", "1w", format!("`1w` {span}")),
        ("--queue-timeout", "<DURATION>", "soon", format!("`soon` {span}")),
        ("--slots", "<NUMBER>", "many", "`many` is no whole number".to_owned()),
    ] {
        refused(&["up", flag, value], &format!("invalid value '{value}' for '{flag} {placeholder}': {why}"));
    }
}

#[test]
fn malformed_variables() {
    let directory = tempfile::tempdir().unwrap();
    let finished =
        process::run(mortar(directory.path(), &["up"]).env("MORTAR_MAX_SIZE", "5"), crate::LIMIT).unwrap();
    let why = "`5` is no size; expected one such as 500MiB or 100GiB";
    assert_refused(&finished, 2, &format!("error: invalid value '5' for '--max-size <SIZE>': {why}{MORE}"));
}

#[test]
fn without_a_word_there_is_help() {
    let directory = tempfile::tempdir().unwrap();
    let finished = run(directory.path(), &[]);
    assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(2), ""));
    assert!(finished.stderr.contains("Usage: mortar <COMMAND>"), "{}", finished.stderr);
}

#[track_caller]
fn refused(arguments: &[&str], said: &str) {
    let directory = tempfile::tempdir().unwrap();
    let before = listing(directory.path());
    assert_refused(&run(directory.path(), arguments), 2, &format!("error: {said}{MORE}"));
    assert_eq!(listing(directory.path()), before, "{arguments:?}");
}
