//! `mortar image`: what is imported is listed until it is removed, and what is refused says why.

use crate::run;
use std::fs;

#[test]
fn images_are_imported_listed_and_removed() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("root/bin")).unwrap();
    fs::write(place.path().join("root/bin/tool"), "tool").unwrap();
    let (source, dir) = (place.path().join("root"), place.path().join("data"));
    let (source, dir) = (source.to_str().unwrap(), dir.to_str().unwrap());
    let image = |arguments: &[&str]| {
        let arguments: Vec<_> = ["image"].iter().chain(arguments).chain(&["--dir", dir]).copied().collect();
        run(place.path(), &arguments)
    };
    assert_eq!(image(&["list"]).stdout, "");
    let imported = image(&["import", source, "docker://debian:12"]);
    assert_eq!((imported.status.code(), imported.stderr.as_str()), (Some(0), ""));
    assert!(imported.stdout.starts_with("debian:12@sha256:"), "{}", imported.stdout);
    assert_eq!(image(&["list"]).stdout, imported.stdout);
    let json = image(&["list", "--json"]).stdout;
    assert!(json.starts_with("[{\"name\":\"debian:12\",\"sha256\":\""), "{json}");
    assert_eq!(image(&["remove", "debian:12"]).status.code(), Some(0));
    assert_eq!(image(&["list"]).stdout, "");
    for (arguments, expected) in [
        (&["remove", "debian:12"] as &[&str], "error: image `debian:12` was not found\n"),
        (
            &["import", source, "../x"],
            "`../x` names no image: a part of the name is empty or begins with a dot",
        ),
        (&["import", "/nowhere/x", "x"], "open `/nowhere/x` failed: No such file or directory"),
    ] {
        let refused = image(arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
}
