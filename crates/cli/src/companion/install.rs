//! `mortar companion install`: a `tools/bazel` in a workspace, which Bazel's launcher runs in place of Bazel.

use super::{HomeFlags, run::parse_upstreams};
use anyhow::{Context, bail};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// By which a wrapper of ours is known.
const MARK: &str = "# Written by `mortar companion install`";

/// Bazel's commands for which the companion does nothing.
const NOT_FOR: &str = "'' | shutdown | clean | version | help | license | info | dump";
const NO_LAUNCHER: &str = "is set by the launcher of Bazel, which runs this";

/// Flags of `mortar companion install`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    home: HomeFlags,
    /// A server behind the companion: grpc://HOST:PORT or unix:PATH. With NAME= before it, the one for that instance name
    /// and all that begin with NAME/. May be given more than once.
    #[arg(long, value_name = "[NAME=]URL", required = true)]
    upstream: Vec<String>,
    /// Have actions executed by the server, rather than only share results.
    #[arg(long)]
    execute: bool,
    /// The workspace.
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    workspace: PathBuf,
}

/// Writes the wrapper, in place of an older one of ours.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    parse_upstreams(&arguments.upstream)?;
    let workspace = &arguments.workspace;
    if !["WORKSPACE", "WORKSPACE.bazel", "MODULE.bazel"].iter().any(|file| workspace.join(file).exists()) {
        bail!("`{}` is no workspace of Bazel's: it has no file WORKSPACE", workspace.display());
    }
    let path = workspace.join("tools/bazel");
    match fs::read_to_string(&path) {
        Ok(text) if !text.contains(MARK) => {
            bail!("`{}` is there already and was not written by this command", path.display());
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("`{}` cannot be read", path.display()));
        }
        _ => {}
    }
    let home = arguments.home.home()?;
    let program = std::env::current_exe().context("where this program lies is not known")?;
    let text = wrapper(&program, home.directory(), &arguments);
    write(&path, &text).with_context(|| format!("`{}` cannot be written", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// What cannot be started is told by itself, and Bazel goes on without it.
fn wrapper(program: &Path, directory: &Path, arguments: &Arguments) -> String {
    let mut start = format!("{} companion run --detach", quoted(&program.display().to_string()));
    if arguments.home.dir.is_some() {
        start += &format!(" --dir {}", quoted(&directory.display().to_string()));
    }
    for upstream in &arguments.upstream {
        start += &format!(" --upstream {}", quoted(upstream));
    }
    let rc = if arguments.execute { "execution.bazelrc" } else { "cache.bazelrc" };
    let rc = quoted(&directory.join(rc).display().to_string());
    format!(
        "#!/bin/sh\n\
         {MARK}: starts the companion where it does not run, and has Bazel use it.\n\
         for word; do\n  \
           case \"$word\" in -*) ;; *) break ;; esac\n\
         done\n\
         # What needs no server does not start it; least of all at the end of the day.\n\
         case \"$word\" in {NOT_FOR}) exec \"${{BAZEL_REAL:?{NO_LAUNCHER}}}\" \"$@\" ;; esac\n\
         if {start} >/dev/null; then\n  \
           set -- --bazelrc={rc} \"$@\"\n\
         fi\n\
         exec \"${{BAZEL_REAL:?{NO_LAUNCHER}}}\" \"$@\"\n"
    )
}

/// One word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
