//! What is built: the mixed workspace of `testkit`, or one that is made for the purpose, and a Bazel on it.

use anyhow::Result;
use mortar_testkit::bazel::{Bazel, Project};
use std::{fmt::Write as _, path::Path};

/// Writes as many different files of 2 KiB as its second argument says into the directory that its first argument names.
/// One process for all, since starting thousands would be what is measured. (mawk and gawk both do.)
const MANY: &str = r#"
def _many_impl(ctx):
    tree = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        command = "awk -v dir=$1 -v files=$2 'BEGIN { for (i = 0; i < files; i++) { name = dir \"/\" i; line = sprintf(\"%07d\\n\", i); " +
                  "text = line; while (length(text) < 2048) text = text text; printf \"%s\", text > name; close(name) } }'",
        arguments = [tree.path, str(ctx.attr.files)],
        outputs = [tree],
        mnemonic = "Many",
    )
    return [DefaultInfo(files = depset([tree]))]

many = rule(
    implementation = _many_impl,
    attrs = {"files": attr.int(mandatory = True)},
)
"#;

/// Some of every kind of rule.
pub(super) fn mixed() -> Result<Bazel> {
    Bazel::v4(&Project::mixed()?)
}

/// Small genrules that need nothing of each other.
pub(super) fn independent(count: u32) -> Result<Bazel> {
    let mut build = String::new();
    for number in 0..count {
        rule(&mut build, number, "", &format!("echo {number} > $@"))?;
    }
    made(&[("BUILD", &build)])
}

/// Genrules that need nothing of each other, each with this command.
pub(super) fn commands(count: u32, command: &str) -> Result<Bazel> {
    let mut build = String::new();
    for number in 0..count {
        rule(&mut build, number, "", command)?;
    }
    made(&[("BUILD", &build)])
}

/// Small genrules each of which needs the one before.
pub(super) fn chain(count: u32) -> Result<Bazel> {
    let mut build = String::new();
    for number in 0..count {
        match number.checked_sub(1) {
            None => rule(&mut build, number, "", "echo 0 > $@")?,
            Some(before) => {
                let sources = format!("\":made_{before}\"");
                rule(&mut build, number, &sources, &format!("(cat $<; echo {number}) > $@"))?;
            }
        }
    }
    made(&[("BUILD", &build)])
}

/// One action that makes a directory of many files.
pub(super) fn outputs(count: u32) -> Result<Bazel> {
    let build = format!("load(\":many.bzl\", \"many\")\n\nmany(name = \"made\", files = {count})\n");
    made(&[("BUILD", &build), ("many.bzl", MANY)])
}

fn rule(build: &mut String, number: u32, sources: &str, command: &str) -> Result<()> {
    writeln!(
        build,
        "genrule(name = \"made_{number}\", srcs = [{sources}], outs = [\"{number}.txt\"], cmd = \"{command}\")"
    )?;
    Ok(())
}

/// Bazel copies the workspace, so that this one may go.
fn made(files: &[(&str, &str)]) -> Result<Bazel> {
    let directory = tempfile::tempdir()?;
    let write = |name: &str, text: &str| std::fs::write(Path::new(directory.path()).join(name), text);
    write("WORKSPACE", "workspace(name = \"netbench\")\n")?;
    for (name, text) in files {
        write(name, text)?;
    }
    Bazel::v4(&Project::at(directory.path().to_owned())?)
}
