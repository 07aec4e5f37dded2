//! The help of every subcommand, compared with files in `snapshots`. `MORTAR_UPDATE_SNAPSHOTS=1` writes them anew.

use crate::run;
use std::{fs, path::Path};

#[test]
fn help_is_what_was_reviewed() {
    let update = std::env::var_os("MORTAR_UPDATE_SNAPSHOTS").is_some_and(|set| set == "1");
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command_line/snapshots");
    let anywhere = tempfile::tempdir().unwrap();
    let mut different = Vec::new();
    let subcommands = [
        "",
        "up",
        "server",
        "worker",
        "bazelrc",
        "status",
        "operations",
        "operations list",
        "operations cancel",
        "logs",
        "workers",
        "workers pause",
        "workers resume",
        "workers drain",
        "purge",
        "store",
        "store verify",
        "store stats",
        "store import",
        "image",
        "image import",
        "image list",
        "image remove",
        "credential-helper",
        "credential-helper get",
        "credential-helper login",
        "bench store",
        "companion",
        "companion run",
        "companion install",
        "companion status",
        "companion flush",
        "companion stop",
    ];
    for subcommand in subcommands.into_iter().chain(["bench"]) {
        let arguments: Vec<_> = subcommand.split_whitespace().chain(["--help"]).collect();
        let finished = run(anywhere.path(), &arguments);
        assert_eq!((finished.status.code(), finished.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let name = if subcommand.is_empty() { "mortar".into() } else { subcommand.replace(' ', "-") };
        let path = snapshots.join(format!("{name}.txt"));
        if update {
            fs::write(&path, &finished.stdout).unwrap();
        }
        let reviewed = fs::read_to_string(&path).unwrap_or_default();
        if reviewed != finished.stdout {
            different.push(format!("{name}.txt is\n{reviewed}\nbut the help is\n{}", finished.stdout));
        }
    }
    let todo = "where this was meant, run this test with MORTAR_UPDATE_SNAPSHOTS=1 and review the difference";
    assert!(different.is_empty(), "{}\n{todo}", different.join("\n"));
}

#[test]
fn every_subcommand_is_reviewed() {
    let anywhere = tempfile::tempdir().unwrap();
    let help = run(anywhere.path(), &["--help"]).stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let names = commands.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    assert_eq!(
        names,
        [
            "up",
            "server",
            "worker",
            "companion",
            "bazelrc",
            "status",
            "operations",
            "logs",
            "workers",
            "purge",
            "store",
            "image",
            "credential-helper",
            "bench",
            "help"
        ]
    );
}

#[test]
fn the_version_is_that_of_the_crate() {
    let anywhere = tempfile::tempdir().unwrap();
    let finished = run(anywhere.path(), &["--version"]);
    assert_eq!(finished.stdout, format!("mortar {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!((finished.status.code(), finished.stderr.as_str()), (Some(0), ""));
}
