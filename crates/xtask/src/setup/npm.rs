//! Bazel 2.1.0, which the npm registry carries as one binary.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{execute, find_by_suffix, fresh_dir, make_executable, publish, say};

const PACKAGE: &str = "@bazel/bazel-linux_x64@2.1.0";
const BINARY: &str = "package/bazel-2.1.0-linux-x86_64";

/// Puts `tools/bazel-2.1.0` in place.
pub fn ensure_bazel_2(tools: &Path) -> Result<()> {
    let target = tools.join("bazel-2.1.0");
    if target.exists() {
        say("Bazel 2.1.0: there");
        return Ok(());
    }
    say(&format!("Bazel 2.1.0: npm pack {PACKAGE}"));
    let scratch = tools.join("bazel-2.1.0.partial");
    fresh_dir(&scratch)?;
    execute(Command::new("npm").args(["pack", "--silent", PACKAGE]).current_dir(&scratch))?;
    let tarball = find_by_suffix(&scratch, ".tgz")?;
    execute(Command::new("tar").arg("-xzf").arg(&tarball).current_dir(&scratch))?;
    let binary = scratch.join(BINARY);
    make_executable(&binary)?;
    publish(&binary, &target)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}
