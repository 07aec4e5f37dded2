//! Commands that see an image instead of the host's system directories.

use crate::Case;
use mortar_sandbox::{Error, Isolation};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A root file system in which the host's shell, and nothing else, is in `/special/bin`.
fn image() -> TempDir {
    let image = tempfile::tempdir().unwrap();
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let put = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    put(Path::new("/bin/bash"), image.path().join("special/bin/shell"));
    let libraries = String::from_utf8(Command::new("ldd").arg("/bin/bash").output().unwrap().stdout).unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        put(library, image.path().join(library.strip_prefix("/").unwrap()));
    }
    image
}

fn case(image: &Path, script: &str) -> Case {
    let mut case = Case::new(script);
    case.spec.arguments[0] = "shell".into();
    case.spec.environment = vec![("PATH".into(), "/special/bin".into())];
    case.spec.image = Some(image.into());
    case
}

#[test]
fn of_the_host_nothing_is_there() {
    let image = image();
    fs::create_dir(image.path().join("usr")).unwrap();
    let script = "echo /* /usr/* /home/*; [ ! -e /bin/bash ] && [ ! -e /usr/bin/env ] && [ -x /special/bin/shell ] \
                  && echo out > dir/out && echo $(<input) && echo x > /tmp/x && echo x > /dev/null && echo $$";
    let ran = case(image.path(), script).input("input", "an input").writable("dir").run();
    let lines: Vec<_> = ran.ok().lines().collect();
    let names: Vec<_> = lines[0].split(' ').filter(|name| !name.starts_with("/lib")).collect();
    assert_eq!(names, ["/dev", "/etc", "/mortar", "/proc", "/special", "/tmp", "/usr", "/usr/*", "/home/*"]);
    assert_eq!(lines[1], "an input");
    assert_eq!(fs::read_to_string(ran.case.exec("dir/out")).unwrap(), "out\n");
}

#[test]
fn it_cannot_be_written() {
    let image = image();
    fs::set_permissions(image.path().join("special"), fs::Permissions::from_mode(0o777)).unwrap();
    for path in ["/special/x", "/special/bin/shell", "/etc/x", "/etc/passwd", "/x"] {
        let ran = case(image.path(), &format!("echo x > {path}")).run();
        assert_ne!(ran.exit.ending.code(), 0, "{path}");
        assert!(ran.stderr.contains("Read-only"), "{path}: {}", ran.stderr);
    }
}

#[test]
fn files_of_etc_are_the_images_where_it_has_them() {
    let image = image();
    let script = "echo $(</etc/passwd); echo $(</etc/own); [[ $(</etc/hosts) == *localhost* ]] && echo hosts";
    let told = |ran: crate::Ran| ran.ok().lines().map(str::to_owned).collect::<Vec<_>>();
    let etc = image.path().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("passwd"), "mine").unwrap();
    fs::write(etc.join("own"), "own").unwrap();
    assert_eq!(told(case(image.path(), script).run()), ["mine", "own", "hosts"]);
    for name in ["group", "hosts", "nsswitch.conf"] {
        fs::write(etc.join(name), "localhost").unwrap();
    }
    assert_eq!(told(case(image.path(), script).run()), ["mine", "own", "hosts"]);
}

#[test]
fn what_is_the_sandboxs_own_is_no_images() {
    let image = image();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("passwd"), "of the host").unwrap();
    for name in ["tmp", "proc", "dev", "etc"] {
        symlink(outside.path(), image.path().join(name)).unwrap();
    }
    fs::write(image.path().join("mortar"), "").unwrap();
    let script = "[ ! -L /tmp ] && echo x > /tmp/x && [ -d /proc/1 ] && [ -c /dev/null ] && [[ $(</etc/passwd) == *mortar* ]] \
                  && echo $(<input)";
    assert_eq!(case(image.path(), script).input("input", "x").run().ok(), "x\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_helper_serves_runs_with_and_without() {
    let (first, second) = (image(), image());
    fs::write(second.path().join("second"), "").unwrap();
    let sandbox = Case::new("").sandbox;
    let script = "[ -e /bin/bash ] && echo host; [ -e /second ] && echo second; [ -e /special ] && echo special; exit 0";
    let run = |image: Option<&Path>| {
        let mut case = image.map_or_else(|| Case::new(script), |image| case(image, script));
        case.sandbox = sandbox.clone();
        case.run().ok().to_owned()
    };
    assert_eq!(run(Some(first.path())), "special\n");
    assert_eq!(run(None), "host\n");
    assert_eq!(run(Some(second.path())), "second\nspecial\n");
    assert_eq!(run(Some(first.path())), "special\n");
    // Another image in the place of one that the helper knows.
    fs::rename(first.path(), first.path().with_extension("old")).unwrap();
    fs::rename(second.path(), first.path()).unwrap();
    assert_eq!(run(Some(first.path())), "second\nspecial\n");
    fs::remove_dir_all(first.path().with_extension("old")).unwrap();
}

#[test]
fn without_namespaces_there_is_no_image() {
    let image = image();
    let mut case = Case::with(Isolation::None, "true");
    case.spec.image = Some(image.path().into());
    assert!(matches!(case.sandbox.start(case.spec), Err(Error::Spec(_))));
}
