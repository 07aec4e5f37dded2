//! What Bazel builds: the small workspaces of this crate, or an unpacked Debian source.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::tools;

/// The libraries of abseil's strings, as a query: 13 targets, 96 spawns.
pub const ABSEIL_STRINGS: &str = "attr(testonly, 0, kind(cc_library, //absl/strings/...))";

/// A source tree with a WORKSPACE file.
#[derive(Debug, Clone)]
pub struct Project {
    from: PathBuf,
}

impl Project {
    /// `crates/testkit/workspaces/mixed`: some of every kind of rule.
    pub fn mixed() -> Result<Project> {
        Project::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/mixed"))
    }

    /// `crates/testkit/workspaces/executing`: what tells of sharing, racing, time limits and kinds of tests.
    pub fn executing() -> Result<Project> {
        Project::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/executing"))
    }

    /// `crates/testkit/workspaces/repository_rule`: a repository rule that may run remotely.
    pub fn repository_rule() -> Result<Project> {
        Project::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/repository_rule"))
    }

    /// `crates/testkit/workspaces/image`: an action that asks for an image, `debian-tcc`.
    pub fn image() -> Result<Project> {
        Project::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/image"))
    }

    /// `crates/testkit/workspaces/persistent`: actions of a tool that can be a persistent worker.
    pub fn persistent() -> Result<Project> {
        Project::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/persistent"))
    }

    /// `crates/testkit/workspaces/trouble`: what is built while a network breaks.
    pub fn trouble() -> Result<Project> {
        Project::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/trouble"))
    }

    /// A source that `cargo xtask setup` unpacked.
    pub fn debian(name: &str) -> Result<Project> {
        Project::at(tools::debian_source(name)?)
    }

    /// Any other, which has to stay where it is until it is copied.
    pub fn at(from: PathBuf) -> Result<Project> {
        ensure!(from.join("WORKSPACE").exists(), "no WORKSPACE file in `{}`", from.display());
        Ok(Project { from })
    }

    /// Copies it to a place that does not exist yet.
    pub fn copy_to(&self, target: &Path) -> Result<()> {
        copy_tree(&self.from, target)
            .with_context(|| format!("cannot copy `{}` to `{}`", self.from.display(), target.display()))
    }
}

/// Copies files (with their modes), directories and symbolic links.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, source, target) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
