//! The rc file that lets both Bazels work offline: repositories that Bazel would download are replaced by those of
//! Debian's packages, and one by an empty stub.

use std::path::Path;

use anyhow::Result;

/// Its name below the scratch directory.
pub const NAME: &str = "offline.bazelrc";

/// Repository, and the directory that stands for it.
const OVERRIDES: &[(&str, &str)] = &[
    ("rules_cc", "/usr/src/bazel-bootstrap/mock_repos/rules_cc"),
    ("rules_java", "/usr/share/bazel/rules/java"),
    ("rules_proto", "/usr/share/bazel/rules/proto"),
    ("bazel_skylib", "/usr/share/bazel/tools/skylib"),
    ("platforms", "/usr/share/bazel/tools/platforms"),
];

/// What tests load of the coverage tools.
const COVERAGE_STUB: &str = r#"
[filegroup(
    name = name,
    visibility = ["//visibility:public"],
) for name in ["coverage_report_generator", "lcov_merger"]]
"#;

/// Writes the rc file, and the stub that it names, below `scratch`.
pub fn write(scratch: &Path) -> Result<()> {
    let stub = scratch.join("remote_coverage_tools");
    std::fs::create_dir(&stub)?;
    std::fs::write(stub.join("WORKSPACE"), "workspace(name = \"remote_coverage_tools\")\n")?;
    std::fs::write(stub.join("BUILD"), COVERAGE_STUB)?;
    std::fs::write(scratch.join(NAME), text(&stub))?;
    Ok(())
}

fn text(stub: &Path) -> String {
    let mut lines = String::from("common --color=no --curses=no\n");
    for (name, path) in OVERRIDES {
        lines += &format!("build --override_repository={name}={path}\n");
        lines += &format!("query --override_repository={name}={path}\n");
    }
    lines += &format!("build --override_repository=remote_coverage_tools={}\n", stub.display());
    // Debian's rc file turns this on, which fills the log of a local build.
    lines += "build --nosandbox_debug --jobs=4 --show_progress_rate_limit=1 --verbose_failures\n";
    lines
}
