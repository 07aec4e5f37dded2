//! Parts the arguments of a command as Bazel does for its own persistent workers: what starts the worker, and the flag
//! files that say what to do.

use super::split::file_at;
use crate::{source::Source, tree::Tree};
use mortar_model::{BlobStoreExt, Result};
use std::path::{Component, Path, PathBuf};

/// Tells a worker that it is one.
const PERSISTENT: &str = "--persistent_worker";
/// Flag files that name flag files, at most. A file that names itself is one without end.
const DEEPEST: usize = 16;

/// The arguments to start a worker with, and those that name flag files; none unless there are both.
pub fn split(arguments: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    let (flags, mut start): (Vec<_>, Vec<_>) =
        arguments.iter().cloned().partition(|argument| is_flag_file(argument));
    if flags.is_empty() || start.is_empty() {
        return None;
    }
    start.push(PERSISTENT.into());
    Some((start, flags))
}

fn is_flag_file(argument: &str) -> bool {
    let names = ["@", "-flagfile=", "--flagfile="].map(|prefix| argument.strip_prefix(prefix));
    names.into_iter().flatten().any(|name| !name.is_empty())
}

/// The path of a file whose lines take this argument's place. `@@` is an escape, and `@repository//` a label.
fn expanded(argument: &str) -> Option<&str> {
    argument.strip_prefix('@').filter(|path| !path.starts_with('@') && !path.contains("//"))
}

/// What a request says instead of these arguments; the error is why that cannot be told.
pub async fn expand(
    source: &Source<'_>,
    root: &Tree,
    directory: &Path,
    arguments: Vec<String>,
    most: u64,
) -> Result<Result<Vec<String>, String>> {
    let mut pending: Vec<_> = arguments.into_iter().rev().map(|argument| (0, argument)).collect();
    let (mut said, mut left) = (Vec::new(), most);
    while let Some((depth, argument)) = pending.pop() {
        let Some(path) = expanded(&argument) else {
            said.push(argument);
            continue;
        };
        let found = below(directory, path).and_then(|path| file_at(root, &path));
        let Some(digest) = found.map(|file| file.digest) else {
            return Ok(Err(format!("the flag file `{path}` is no file of its input root")));
        };
        if depth == DEEPEST || digest.size() > left {
            return Ok(Err(format!("the flag file `{path}` is too large, or named by too many others")));
        }
        left -= digest.size();
        let read = source.stores.blobs.read_all(&source.job.context, digest, most);
        let bytes = match digest.is_empty() {
            true => Default::default(),
            false => source.job.unless_cancelled(read).await?,
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Ok(Err(format!("the flag file `{path}` is not UTF-8")));
        };
        pending.extend(text.lines().rev().map(|line| (depth + 1, line.to_owned())));
    }
    Ok(Ok(said))
}

/// A path that is named from a directory, as a path in the root; none where that leaves it.
pub fn below(directory: &Path, path: &str) -> Option<PathBuf> {
    let mut reached = PathBuf::new();
    for part in directory.components().chain(Path::new(path).components()) {
        match part {
            Component::Normal(name) => reached.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !reached.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_parted_as_bazel_does() {
        let own = |list: &[&str]| list.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
        type Parts<'a> = (&'a [&'a str], &'a [&'a str]);
        let cases: [(&[&str], Option<Parts<'_>>); 7] = [
            (&["tool", "@a"], Some((&["tool", "--persistent_worker"], &["@a"]))),
            (
                &["tool", "--flagfile=a", "x"],
                Some((&["tool", "x", "--persistent_worker"], &["--flagfile=a"])),
            ),
            (
                &["tool", "-flagfile=a", "@@b"],
                Some((&["tool", "--persistent_worker"], &["-flagfile=a", "@@b"])),
            ),
            (&["tool", "@"], None),
            (&["tool", "--flagfile="], None),
            (&["tool", "x"], None),
            (&["@a"], None),
        ];
        for (arguments, expected) in cases {
            let expected = expected.map(|(start, flags)| (own(start), own(flags)));
            assert_eq!(split(&own(arguments)), expected, "{arguments:?}");
        }
    }

    #[test]
    fn what_is_replaced_by_lines() {
        for (argument, expected) in [
            ("@a/b", Some("a/b")),
            ("@@a", None),
            ("@repository//a:b", None),
            ("--flagfile=a", None),
            ("a@b", None),
        ] {
            assert_eq!(expanded(argument), expected, "{argument}");
        }
    }

    #[test]
    fn paths_stay_in_the_root() {
        for (directory, path, expected) in [
            ("", "a/./b", Some("a/b")),
            ("wd", "a", Some("wd/a")),
            ("wd", "../a", Some("a")),
            ("wd", "../../a", None),
            ("", "/a", None),
        ] {
            assert_eq!(below(Path::new(directory), path).as_deref(), expected.map(Path::new), "{path}");
        }
    }
}
