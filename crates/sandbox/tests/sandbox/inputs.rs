//! Inputs stay as they are, wherever they lie and whoever owns them; outputs can be made.

use crate::Case;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

/// Every way that the shell knows to change something.
const ATTACKS: [&str; 10] = [
    "echo evil > FILE",
    "echo evil >> FILE",
    "chmod 0777 FILE",
    "touch -d 2001-01-01 FILE",
    "truncate -s 0 FILE",
    "rm -f FILE",
    "mv FILE FILE.moved",
    "ln FILE out/linked",
    "cp --remove-destination /bin/true FILE",
    "exec 3<FILE; echo evil > /proc/self/fd/3",
];

fn unharmed(file: &str, build: impl Fn(Case) -> Case) {
    for attack in ATTACKS {
        let script = format!("set -e; {}", attack.replace("FILE", file));
        let store = tempfile::tempdir().unwrap();
        let blob = store.path().join("blob");
        let case = build(Case::new(&script)).input(file, "good");
        fs::hard_link(case.exec(file), &blob).unwrap();
        let before = fs::metadata(&blob).unwrap();
        let ran = case.run();
        let after = fs::metadata(&blob).unwrap();
        assert_ne!(ran.exit.ending.code(), 0, "{attack}");
        assert_eq!(fs::read(ran.case.exec(file)).unwrap(), b"good", "{attack}");
        assert_eq!(fs::read(&blob).unwrap(), b"good", "{attack}");
        assert_eq!((after.mode(), after.mtime()), (before.mode(), before.mtime()), "{attack}");
    }
}

#[test]
fn in_directories_without_outputs() {
    unharmed("lib/in", |case| case.writable("out"));
}

#[test]
fn beside_outputs() {
    unharmed("out/in", |case| case.writable("out"));
}

#[test]
fn below_outputs() {
    unharmed("out/deep/er/in", |case| case.writable("out"));
}

#[test]
fn beside_outputs_in_the_root_itself() {
    unharmed("in", |case| case.writable("out").writable(""));
}

#[test]
fn between_outputs() {
    unharmed("out/a/in", |case| case.writable("out").writable("out/a/b/c"));
}

#[test]
fn outputs_may_be_nested_and_made_anew() {
    let script = "set -e
        echo 1 > out/a; echo 2 > out/sub/b; echo 3 > out/dir/in/made/c; echo 4 > top
        rm -r out/sub; mkdir out/sub; echo 5 > out/sub/d; mkdir -p out/tree/x; chmod 0500 out/tree; cat out/dir/in/f";
    let case = Case::new(script).writable("out").writable("out/sub").input("out/dir/in/f", "input");
    let ran = case.writable("out/dir/in/made").writable("").run();
    assert_eq!(ran.ok(), "input");
    for (path, text) in [("out/a", "1\n"), ("out/sub/d", "5\n"), ("out/dir/in/made/c", "3\n"), ("top", "4\n")]
    {
        assert_eq!(fs::read_to_string(ran.case.exec(path)).unwrap(), text);
    }
}

#[test]
fn a_file_that_is_named_may_be_changed() {
    let mut case =
        Case::new("echo new > out/file && ! echo x > out/other").writable("out").input("out/other", "");
    fs::write(case.exec("out/file"), "old").unwrap();
    if let Some((uid, gid)) = case.sandbox.owner() {
        std::os::unix::fs::chown(case.exec("out/file"), Some(uid), Some(gid)).unwrap();
    }
    case.spec.writable.push("out/file".into());
    let ran = case.run();
    ran.ok();
    assert_eq!(fs::read_to_string(ran.case.exec("out/file")).unwrap(), "new\n");
}

#[test]
fn a_link_opens_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let mut case = Case::new("true");
    symlink(outside.path(), case.exec("out")).unwrap();
    case.spec.writable.push("out".into());
    let error = case.sandbox.run(case.spec.clone()).unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");
}
