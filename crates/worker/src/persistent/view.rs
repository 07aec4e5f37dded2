//! What a worker process sees in its root: the tools, which stay, and what is laid in for a request and taken out after
//! it. Both are renames, in a directory that the process sees all the while.
//!
//! The process may be at work meanwhile, whatever it should do, and may be an enemy: so nothing here follows a link, every
//! step is one from a directory that is open to a name in it, and directories of the tools are known by their inodes.

use rustix::{
    fs::{CWD, Dir, Mode, OFlags, RenameFlags, Stat, fchown, fstat, open, openat, renameat, renameat_with},
    process::{Gid, Uid, getegid, geteuid},
};
use std::{
    collections::{BTreeSet, HashMap},
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

/// The root of a process.
#[derive(Debug)]
pub struct View {
    path: PathBuf,
    root: OwnedFd,
    kept: Folder,
    /// Who the process is, where it is not us.
    owner: Option<(u32, u32)>,
}

/// A directory that stays, with what stays in it.
#[derive(Debug)]
struct Folder {
    inode: u64,
    folders: HashMap<OsString, Folder>,
    /// The inodes of files and links.
    others: HashMap<OsString, u64>,
}

impl View {
    /// Of a root that holds the tools, and nothing else yet.
    pub fn of(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let root = open(path, FOLDER, Mode::empty())?;
        let kept = Folder::read(&root)?;
        Ok(Self { path: path.into(), root, kept, owner })
    }

    /// The directories that stay, by their paths.
    pub fn folders(&self) -> Vec<PathBuf> {
        let (mut all, mut pending) = (Vec::new(), vec![(PathBuf::new(), &self.kept)]);
        while let Some((path, folder)) = pending.pop() {
            pending.extend(folder.folders.iter().map(|(name, below)| (path.join(name), below)));
            all.push(path);
        }
        all
    }

    /// Moves all that lies in `from` in here. The process gets those of the directories that stay which are `writable`;
    /// others that are come with their owner.
    pub fn lay(&self, from: &Path, writable: &BTreeSet<PathBuf>) -> io::Result<()> {
        self.lay_in(&self.kept, &self.root, from, Path::new(""), writable)
    }

    fn lay_in(
        &self,
        folder: &Folder,
        open: &OwnedFd,
        from: &Path,
        path: &Path,
        writable: &BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            if let Some(below) = folder.folders.get(&name) {
                let inside = below.open(open, &name)?;
                self.lay_in(below, &inside, &from.join(&name), &path.join(&name), writable)?;
            } else {
                renameat_with(CWD, from.join(&name), open, &name, RenameFlags::NOREPLACE)?;
            }
        }
        match self.owner.filter(|_| writable.contains(path)) {
            Some((user, group)) => Ok(fchown(open, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?),
            None => Ok(()),
        }
    }

    /// Moves all that does not stay to `to`, which is a directory; how much that was. An error where something that stays
    /// is not as it was.
    pub fn take(&self, to: &Path) -> io::Result<u64> {
        self.take_from(&self.kept, &self.root, to)
    }

    fn take_from(&self, folder: &Folder, open: &OwnedFd, to: &Path) -> io::Result<u64> {
        self.take_back(open)?;
        let (mut found, mut moved) = (0, 0);
        for (name, inode) in entries(open)? {
            if let Some(below) = folder.folders.get(&name) {
                let inside = below.open(open, &name)?;
                moved += self.take_from(below, &inside, &to.join(&name))?;
                found += 1;
            } else if let Some(expected) = folder.others.get(&name) {
                if inode != *expected {
                    return Err(changed(&name));
                }
                found += 1;
            } else {
                fs::create_dir_all(to)?;
                renameat(open, &name, CWD, to.join(&name))?;
                moved += 1;
            }
        }
        if found != folder.folders.len() + folder.others.len() {
            return Err(changed(OsStr::new("a file that is gone")));
        }
        Ok(moved)
    }

    /// Has a directory belong to us again.
    fn take_back(&self, open: &OwnedFd) -> io::Result<()> {
        let Some((user, _)) = self.owner else { return Ok(()) };
        if fstat(open)?.st_uid == user {
            fchown(open, Some(geteuid()), Some(getegid()))?;
        }
        Ok(())
    }

    /// Bytes in files that belong to the process and do not stay.
    pub fn written(&self) -> u64 {
        let (mut sum, mut pending) = (0, vec![(self.path.clone(), Some(&self.kept))]);
        while let Some((path, folder)) = pending.pop() {
            // What goes meanwhile is not there.
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if folder.is_some_and(|folder| folder.others.contains_key(&name)) {
                    continue;
                }
                let Ok(found) = entry.metadata() else { continue };
                if found.is_dir() {
                    let below = folder.and_then(|folder| folder.folders.get(&name));
                    pending.push((entry.path(), below));
                } else if found.is_file() && self.is_its_own(&found) {
                    sum += std::os::unix::fs::MetadataExt::blocks(&found) * 512;
                }
            }
        }
        sum
    }

    fn is_its_own(&self, found: &fs::Metadata) -> bool {
        self.owner.is_none_or(|(user, _)| std::os::unix::fs::MetadataExt::uid(found) == user)
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Folder {
    fn read(directory: &OwnedFd) -> io::Result<Self> {
        let mut folder =
            Self { inode: fstat(directory)?.st_ino, folders: HashMap::new(), others: HashMap::new() };
        for (name, inode) in entries(directory)? {
            match openat(directory, &name, FOLDER, Mode::empty()) {
                Ok(below) => drop(folder.folders.insert(name, Self::read(&below)?)),
                // A link, or a file.
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    folder.others.insert(name, inode);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(folder)
    }

    /// Opens this directory where it was in the one above it.
    fn open(&self, above: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
        let opened = openat(above, name, FOLDER, Mode::empty()).map_err(|_| changed(name))?;
        let Stat { st_ino, .. } = fstat(&opened)?;
        if st_ino == self.inode { Ok(opened) } else { Err(changed(name)) }
    }
}

fn changed(name: &OsStr) -> io::Error {
    io::Error::other(format!("it changed its own tools (`{}`)", name.display()))
}

/// Names and inodes.
fn entries(directory: &OwnedFd) -> io::Result<Vec<(OsString, u64)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = CString::from(entry.file_name()).into_bytes();
        if name != b"." && name != b".." {
            found.push((OsString::from_vec(name), entry.ino()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A root with `bin/tool`, `bin/link`, and beside it what is laid in: `bin/in`, `src/x`.
    fn lab() -> (TempDir, View) {
        let lab = tempfile::tempdir().unwrap();
        for directory in ["exec/bin", "run/bin", "run/src", "out"] {
            fs::create_dir_all(lab.path().join(directory)).unwrap();
        }
        for file in ["exec/bin/tool", "run/bin/in", "run/src/x"] {
            fs::write(lab.path().join(file), file).unwrap();
        }
        symlink("tool", lab.path().join("exec/bin/link")).unwrap();
        let view = View::of(&lab.path().join("exec"), None).unwrap();
        (lab, view)
    }

    fn names(path: &Path) -> String {
        let (mut all, mut pending) = (Vec::new(), vec![path.to_owned()]);
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => pending.push(entry.path()),
                    false => all.push(entry.path().strip_prefix(path).unwrap().display().to_string()),
                }
            }
        }
        all.sort();
        all.join(" ")
    }

    #[test]
    fn what_is_laid_in_comes_out_with_what_was_made() {
        let (lab, view) = lab();
        let [exec, run, out] = ["exec", "run", "out"].map(|name| lab.path().join(name));
        view.lay(&run, &BTreeSet::new()).unwrap();
        assert_eq!((names(&exec), names(&run)), ("bin/in bin/link bin/tool src/x".into(), String::new()));
        for made in ["bin/new", "src/y", "top"] {
            fs::write(exec.join(made), made).unwrap();
        }
        assert!(view.take(&out).unwrap() > 0);
        assert_eq!(names(&exec), "bin/link bin/tool");
        assert_eq!(names(&out), "bin/in bin/new src/x src/y top");
        assert_eq!(view.take(&out).unwrap(), 0);
        let mut folders = view.folders();
        folders.sort();
        assert_eq!(folders, [Path::new(""), Path::new("bin")]);
    }

    #[test]
    fn what_changes_its_tools_is_found_out() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("gone", |exec| fs::remove_file(exec.join("bin/tool")).unwrap()),
            ("`link`", |exec| {
                fs::rename(exec.join("bin/tool"), exec.join("bin/link")).unwrap();
                fs::write(exec.join("bin/tool"), "evil").unwrap();
            }),
            ("`bin`", |exec| {
                fs::rename(exec.join("bin"), exec.join("other")).unwrap();
                fs::create_dir(exec.join("bin")).unwrap();
            }),
            ("`bin`", |exec| {
                fs::rename(exec.join("bin"), exec.join("other")).unwrap();
                symlink("other", exec.join("bin")).unwrap();
            }),
        ];
        for (told, change) in changes {
            let (lab, view) = lab();
            change(&lab.path().join("exec"));
            let error = view.take(&lab.path().join("out")).unwrap_err().to_string();
            let whichever = told == "`link`" && error.contains("`tool`");
            assert!(error.contains(told) || whichever, "{told}: {error}");
        }
    }

    #[test]
    fn nothing_is_laid_over_what_is_there() {
        let (lab, view) = lab();
        fs::write(lab.path().join("exec/src"), "left").unwrap();
        assert!(view.lay(&lab.path().join("run"), &BTreeSet::new()).is_err());
        let (lab, view) = self::lab();
        fs::write(lab.path().join("run/bin/tool"), "another").unwrap();
        assert!(view.lay(&lab.path().join("run"), &BTreeSet::new()).is_err());
    }
}
