//! A root file system of Debian with a compiler that is not among the packages of the tests: `images/debian-tcc`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt::is_root, execute, fresh_dir, make_dir, publish, say};

/// Makes it, unless it is there, from where apt has its packages.
pub fn ensure(test_dir: &Path) -> Result<()> {
    let images = test_dir.join("images");
    let image = images.join("debian-tcc");
    if image.exists() {
        say("the image: there");
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "debootstrap makes the image of the tests, and needs root\nHint: run `sudo cargo xtask setup` once"
        );
    }
    say("the image: debootstrap makes it");
    let (mirror, codename) = source()?;
    make_dir(&images)?;
    let unfinished = images.join("unfinished");
    fresh_dir(&unfinished)?;
    let flags = ["--variant=minbase", "--include=tcc,libc6-dev"];
    execute(Command::new("debootstrap").args(flags).arg(codename).arg(&unfinished).arg(mirror))?;
    publish(&unfinished, &image)
}

/// The address and the release that apt is configured with.
fn source() -> Result<(String, String)> {
    let format = "$(REPO_URI) $(CODENAME) $(COMPONENT)";
    let listing = execute(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
        "Label: Debian",
    ]))?;
    let main = listing.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [mirror, codename, "main"] => Some((mirror.to_owned(), codename.to_owned())),
        _ => None,
    });
    main.context("apt is not configured with Debian's packages")
}
