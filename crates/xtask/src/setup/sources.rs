//! Real projects: Debian sources with BUILD files, fetched by `apt-get source`.
//!
//! The machine's own package entries are copied as source entries into a directory of ours at run time, and
//! `apt-get` is told to read that instead of its configuration, which stays as it is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt, execute, fresh_dir, make_dir, publish, say};

/// Puts `sources/NAME/` in place for each name.
pub fn ensure(dir: &Path, names: &[&str]) -> Result<()> {
    let sources = dir.join("sources");
    make_dir(&sources)?;
    let missing: Vec<&str> = names.iter().copied().filter(|name| !sources.join(name).exists()).collect();
    if missing.is_empty() {
        say("Debian sources: all there");
        return Ok(());
    }
    let apt = dir.join("apt");
    write_entries(&apt)?;
    say("Debian sources: reading the index");
    execute(with_own_entries(&mut apt::apt_get(), &apt).arg("update"))?;
    missing.iter().try_for_each(|name| fetch(&apt, &sources, name))
}

fn fetch(apt: &Path, sources: &Path, name: &str) -> Result<()> {
    say(&format!("Debian sources: {name}"));
    let scratch = sources.join(format!("{name}.partial"));
    fresh_dir(&scratch)?;
    let mut command = apt::apt_get();
    with_own_entries(&mut command, apt).args(["source", name]).current_dir(&scratch);
    execute(&mut command)?;
    publish(&only_dir(&scratch)?, &sources.join(name))?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Points `apt-get` at our entries and at lists of its own.
fn with_own_entries<'c>(command: &'c mut Command, apt: &Path) -> &'c mut Command {
    let set = |key: &str, name: &str| format!("{key}={}", apt.join(name).display());
    command.args(["-o", "Dir::Etc::sourcelist=/dev/null", "-o", "APT::Sandbox::User=root"]);
    command.args(["-o", &set("Dir::Etc::sourceparts", "entries")]);
    command.args(["-o", &set("Dir::State::Lists", "lists")])
}

/// Copies the machine's entries as source entries.
fn write_entries(apt: &Path) -> Result<()> {
    let entries = apt.join("entries");
    fresh_dir(&entries)?;
    make_dir(&apt.join("lists/partial"))?;
    let mut found = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    if let Ok(listing) = std::fs::read_dir("/etc/apt/sources.list.d") {
        found.extend(listing.flatten().map(|entry| entry.path()));
    }
    let mut any = false;
    for path in found {
        let copy = match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => source_stanzas(&read(&path)?),
            Some("list") if path.exists() => source_lines(&read(&path)?),
            _ => continue,
        };
        if copy.is_empty() {
            continue;
        }
        let name = path.file_name().context("an entry file has a name")?;
        std::fs::write(entries.join(name), copy)?;
        any = true;
    }
    if !any {
        bail!("the machine's apt configuration has no entry with a `main` component to copy");
    }
    Ok(())
}

/// Stanzas of a `.sources` file that offer Debian's `main`, with `Types: deb-src`.
fn source_stanzas(text: &str) -> String {
    let is_main = |stanza: &&str| {
        let field = |name| stanza.lines().find_map(|line| line.strip_prefix(name));
        let has =
            |name, word| field(name).is_some_and(|rest: &str| rest.split_whitespace().any(|w| w == word));
        has("Types:", "deb") && has("Components:", "main") && !has("Enabled:", "no")
    };
    let retype = |line: &str| if line.starts_with("Types:") { "Types: deb-src" } else { line }.to_owned();
    let stanzas = text.split("\n\n").filter(is_main);
    stanzas
        .map(|stanza| stanza.lines().map(retype).map(|line| line + "\n").collect::<String>() + "\n")
        .collect()
}

/// Lines of a `.list` file that offer `main`, as `deb-src` lines.
fn source_lines(text: &str) -> String {
    let main = text.lines().filter_map(|line| line.trim().strip_prefix("deb "));
    let main = main.filter(|rest| rest.split_whitespace().any(|word| word == "main"));
    main.map(|rest| format!("deb-src {rest}\n")).collect()
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// The one directory that `apt-get source` unpacked.
fn only_dir(scratch: &Path) -> Result<std::path::PathBuf> {
    for entry in std::fs::read_dir(scratch)? {
        let path = entry?.path();
        if path.is_dir() {
            return Ok(path);
        }
    }
    bail!("`apt-get source` unpacked nothing in `{}`", scratch.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_of_main_become_source_stanzas() {
        let text = "Types: deb\nURIs: file:/a\nSuites: s\nComponents: main\n\nTypes: deb\nURIs: file:/b\nComponents: other\n";
        assert_eq!(source_stanzas(text), "Types: deb-src\nURIs: file:/a\nSuites: s\nComponents: main\n\n");
    }

    #[test]
    fn disabled_stanzas_are_left_out() {
        assert_eq!(source_stanzas("Types: deb\nEnabled: no\nComponents: main\n"), "");
    }

    #[test]
    fn lines_of_main_become_source_lines() {
        let text = "# deb file:/x s main\ndeb [a=b] file:/a s main contrib\ndeb file:/b s other\n";
        assert_eq!(source_lines(text), "deb-src [a=b] file:/a s main contrib\n");
    }
}
