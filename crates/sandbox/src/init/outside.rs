//! Where a helper lives between runs: namespaces of its own, in which the host's files are still there, and beside
//! them the roots that runs have in common.

use super::{
    Failure, Plan, Step, check,
    mounts::{self, View},
    namespaces,
    network::Network,
    template,
};
use crate::Assembly;
use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// Roots that are kept ready.
const ROOTS: usize = 8;

/// A helper's own namespaces.
#[derive(Debug)]
pub struct Outside {
    /// The mount namespace in which the host's files are.
    host: File,
    /// Mount namespaces of which each holds a root and nothing else, by what is shown in it; the last used stands last.
    roots: Vec<(Shown, File)>,
    network: Network,
    /// Whether mounts can be put into a view before it is mounted itself.
    nests: bool,
}

/// What a root is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The host's system directories, and these.
    Host(Vec<PathBuf>),
    /// An image.
    Image(Image),
}

/// A directory that is shown as the root. Another one that is put in its place is another image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is.
    pub path: PathBuf,
    /// Device, inode, and the time at which the inode was last changed.
    identity: (u64, u64, i64, i64),
}

impl Shown {
    fn to(plan: &Plan) -> Result<Self, Failure> {
        let Some(path) = &plan.spec.image else { return Ok(Self::Host(plan.host_directories.clone())) };
        let found = fs::symlink_metadata(path).step(|| format!("look at the image `{}`", path.display()))?;
        let identity = (found.dev(), found.ino(), found.ctime(), found.ctime_nsec());
        Ok(Self::Image(Image { path: path.clone(), identity }))
    }
}

impl Outside {
    /// Moves this process into namespaces of its own.
    pub fn enter(plan: &Plan) -> Result<Self, Failure> {
        if plan.owner.is_none() {
            namespaces::become_own_master()?;
        }
        namespaces::unshare(libc::CLONE_NEWNS).step(|| "create a mount namespace".into())?;
        mounts::follow()?;
        let network = Network::new()?;
        let host = current_mounts()?;
        let nests = plan.assembly == Assembly::Best && nests();
        Ok(Self { host, roots: Vec::new(), network, nests })
    }

    /// Whether mounts can be put into a view before it is mounted itself.
    pub fn nests(&self) -> bool {
        self.nests
    }

    /// Calls `inside` where the run's root is all there is, and returns to the host's files.
    pub fn within_root<T>(&mut self, plan: &Plan, inside: impl FnOnce() -> T) -> Result<T, Failure> {
        self.prepare(Shown::to(plan)?)?;
        let (_, root) = self.roots.last().expect("a root was just made or found");
        enter(root)?;
        let result = inside();
        enter(&self.host)?;
        Ok(result)
    }

    /// Has the root of such runs stand last.
    fn prepare(&mut self, shown: Shown) -> Result<(), Failure> {
        if let Some(found) = self.roots.iter().position(|(known, _)| *known == shown) {
            let found = self.roots.remove(found);
            self.roots.push(found);
            return Ok(());
        }
        let made = namespaces::unshare(libc::CLONE_NEWNS)
            .step(|| "create a mount namespace".into())
            .and_then(|()| template::build(&shown))
            .and_then(|()| current_mounts());
        enter(&self.host)?;
        if self.roots.len() == ROOTS {
            self.roots.remove(0);
        }
        self.roots.push((shown, made?));
        Ok(())
    }

    /// Has the next run find a network in which nothing ever happened.
    pub fn renew_network(&mut self) -> Result<(), Failure> {
        self.network.renew()
    }
}

fn current_mounts() -> Result<File, Failure> {
    File::open("/proc/self/ns/mnt").step(|| "keep a mount namespace".into())
}

/// Changes into a mount namespace: its root is the working directory then.
fn enter(mounts: &File) -> Result<(), Failure> {
    // SAFETY: takes a descriptor and a number; this process has one thread.
    check(unsafe { libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS) }.into())
        .map(drop)
        .step(|| "change the mount namespace".into())
}

/// Tries whether this kernel puts a view into one that is not mounted.
fn nests() -> bool {
    let attempt = || {
        let usr = View::of(Path::new("/usr"))?;
        // The path of a view is a link in `/proc`, and a mount goes on a link itself unless more of a path follows.
        View::of(Path::new("/usr"))?.put(&usr.path().join("."))
    };
    attempt().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{process::geteuid, system::uname};

    #[test]
    fn views_nest_where_the_kernel_knows_how() {
        let release = uname();
        let release = release.release().to_string_lossy();
        let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        // Whoever is not root needs a user namespace for it, which a process of many threads cannot enter.
        if geteuid().is_root() && version >= (6, 15) {
            assert!(nests(), "Linux {release}");
        }
    }
}
