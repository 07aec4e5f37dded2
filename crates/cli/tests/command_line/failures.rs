//! Starts that fail: exit code 1, a message that names the thing, nothing changed on disk.

use crate::{MORTAR, assert_refused, disk::listing, mortar, run};
use mortar_testkit::{mortar::Mortar, process};
use std::{fs, net::TcpListener, os::unix::net::UnixListener, path::Path};

#[test]
fn settings_that_cannot_be_meant() {
    for (arguments, said) in [
        (&["--max-size", "5B"][..], "--max-size is 5B; at least 1MiB is needed"),
        (&["--slots", "0"], "--slots is 0; at least 1 is needed (`mortar server` serves without a worker)"),
        (&["--slots", "1025"], "--slots is 1025; at most 1024 are possible"),
        (
            &["--default-timeout", "2h", "--max-timeout", "90min"],
            "--default-timeout is 2h, which is longer than --max-timeout, 90min",
        ),
        (&["--queue-timeout", "0s"], "--queue-timeout is 0s; at least 1s is needed"),
        (&["--listen", "nowhere"], "--listen: `nowhere` is no address; expected HOST:PORT or unix:PATH"),
        (&["--listen", ":80"], "--listen: `:80` is no address; expected HOST:PORT or unix:PATH"),
        (
            &["--listen", "host:99999"],
            "--listen: `host:99999` is no address; expected HOST:PORT or unix:PATH",
        ),
        (&["--listen", "unix:"], "--listen: `unix:` names no path; expected HOST:PORT or unix:PATH"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = [&["up", "--dir", "data"], arguments].concat();
        refused(directory.path(), &arguments, said);
    }
}

#[test]
fn files_that_cannot_be_understood() {
    let known = "`listen`, `dir`, `max-size`, `lease`, `invocation-grace`, `default-timeout`, `max-timeout`, `queue-timeout`, `pool-timeout`, \
                 `start-grace`, `abandoned`, `ignore-property`, `pool`, `slots`, `cpus`, `memory`";
    for (text, said) in [
        ("max-sise = \"1GiB\"", format!("unknown field `max-sise`, expected one of {known}")),
        ("max-size = 5", "invalid type: integer `5`, expected a string".to_owned()),
        ("slots = -1", "invalid value: integer `-1`, expected u32".to_owned()),
        ("max-size = \"5\"", "`5` is no size; expected one such as 500MiB or 100GiB".to_owned()),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mortar.toml"), format!("listen = \"127.0.0.1:0\"\n{text}\n"))
            .unwrap();
        let before = listing(directory.path());
        let finished = run(directory.path(), &["up", "--dir", "data", "--config", "mortar.toml"]);
        let begins =
            "error: the configuration file `mortar.toml` is not understood: TOML parse error at line 2";
        assert!(finished.stderr.starts_with(begins), "{}", finished.stderr);
        assert!(finished.stderr.trim_end().ends_with(&said), "{}", finished.stderr);
        assert!(finished.stderr.contains(text), "the line is shown: {}", finished.stderr);
        assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(1), ""));
        assert_eq!(listing(directory.path()), before);
    }
}

#[test]
fn a_file_that_is_absent() {
    let directory = tempfile::tempdir().unwrap();
    let said = "the configuration file `mortar.toml` cannot be read: No such file or directory (os error 2)";
    refused(directory.path(), &["up", "--dir", "data", "--config", "mortar.toml"], said);
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let hint = "something else listens there; stop it, or choose another address with --listen";
    for verb in ["up", "server"] {
        let directory = tempfile::tempdir().unwrap();
        let said =
            format!("listening on `{address}` failed: Address already in use (os error 98)\nHint: {hint}");
        refused(directory.path(), &[verb, "--dir", "data", "--listen", &address], &said);
    }
}

#[test]
fn a_socket_in_use_and_a_file_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let _living = UnixListener::bind(directory.path().join("socket")).unwrap();
    let hint = "something else listens there; stop it, or choose another address with --listen";
    let said =
        format!("listening on `unix:socket` failed: Address already in use (os error 98)\nHint: {hint}");
    refused(directory.path(), &["up", "--dir", "data", "--listen", "unix:socket"], &said);

    fs::write(directory.path().join("diary"), "dear diary").unwrap();
    let said = "listening on `unix:diary` failed: the path exists and is no socket";
    refused(directory.path(), &["up", "--dir", "data", "--listen", "unix:diary"], said);
}

#[test]
fn a_directory_that_cannot_be_made() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "content").unwrap();
    for (dir, why) in [
        ("file", "Not a directory (os error 20)"),
        ("file/below", "Not a directory (os error 20)"),
        ("/proc/nobody/can", "No such file or directory (os error 2)"),
    ] {
        let said = format!("creating the store's directory `{dir}/store` failed: {why}");
        // Neither does the socket stay.
        for listen in ["127.0.0.1:0", "unix:socket"] {
            for verb in ["up", "server"] {
                refused(directory.path(), &[verb, "--dir", dir, "--listen", listen], &said);
                assert!(!directory.path().join("socket").exists());
            }
        }
    }
    let said = "create a directory in the work directory `file/below` failed: Not a directory (os error 20)";
    refused(directory.path(), &["worker", "--server", "grpc://127.0.0.1:1", "--dir", "file/below"], said);
}

#[test]
fn a_directory_of_somebody_else() {
    let directory = tempfile::tempdir().unwrap();
    let holds = directory.path().join("home/letters");
    fs::create_dir_all(&holds).unwrap();
    fs::write(holds.join("a.txt"), "dear").unwrap();
    let hint = "Hint: choose another directory with --dir";
    let why = "is not empty (it holds `letters`) and is no data directory of Mortar's";
    for verb in ["up", "server"] {
        refused(
            directory.path(),
            &[verb, "--dir", "home", "--listen", "unix:socket"],
            &format!("`home` {why}\n{hint}"),
        );
    }
    let why = "is not empty (it holds `letters`) and is none of Mortar's";
    refused(
        directory.path(),
        &["worker", "--server", "grpc://127.0.0.1:1", "--dir", "home"],
        &format!("the work directory `home` {why}\n{hint}"),
    );
    fs::rename(directory.path().join("home"), directory.path().join("store")).unwrap();
    let why = "is not empty (it holds `letters`) and is no store of Mortar's";
    refused(directory.path(), &["up", "--dir", ".", "--listen", "127.0.0.1:0"], &format!("`./store` {why}"));
}

#[test]
fn a_directory_of_another_mortar() {
    let directory = tempfile::tempdir().unwrap();
    let owner = Mortar::up(MORTAR, &directory.path().join("data")).unwrap();
    let before = listing(&directory.path().join("data"));
    let finished = run(directory.path(), &["up", "--dir", "data", "--listen", "unix:socket"]);
    let said = "error: the store's directory `data/store` is in use by another process (id ";
    assert!(finished.stderr.starts_with(said), "{}", finished.stderr);
    assert!(finished.stderr.ends_with(")\nHint: stop that process, or choose another directory\n"));
    assert_eq!((finished.status.code(), finished.stdout.as_str()), (Some(1), ""));
    assert_eq!(listing(&directory.path().join("data")), before);
    assert!(!directory.path().join("socket").exists());
    assert!(mortar_testkit::http::get(owner.address(), "/").unwrap().status == 200, "the owner lives");
}

#[test]
fn no_home() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = mortar(directory.path(), &["up", "--listen", "127.0.0.1:0"]);
    let finished = process::run(command.env_remove("HOME"), crate::LIMIT).unwrap();
    let said = "error: neither XDG_DATA_HOME nor HOME is set: name a directory with --dir\n";
    assert_refused(&finished, 1, said);
}

/// That it ends with 1 and says this, with the directory as it was.
#[track_caller]
fn refused(directory: &Path, arguments: &[&str], said: &str) {
    let before = listing(directory);
    let finished = run(directory, arguments);
    assert_refused(&finished, 1, &format!("error: {said}\n"));
    let strip = |mut listing: crate::disk::Listing| {
        // A socket that came and went touches the directory that it was in.
        listing.remove("");
        listing
    };
    assert_eq!(strip(listing(directory)), strip(before), "{arguments:?}");
}
