//! Where a helper lives between runs: namespaces of its own, in which the host's files are still there, and beside
//! them the roots that runs have in common.

use super::{
    Failure, Plan, Step, check,
    ipc::Ipc,
    mounts::{self, View},
    namespaces,
    network::Network,
    scratch::Scratch,
    seccomp, template,
};
use crate::Assembly;
use rustix::system::sethostname;
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
    /// The last used stands last.
    roots: Vec<Root>,
    network: Network,
    ipc: Ipc,
    /// Whether mounts can be put into a view before it is mounted itself.
    nests: bool,
}

/// A mount namespace that holds a root and nothing else.
#[derive(Debug)]
struct Root {
    shown: Shown,
    mounts: File,
    scratch: Scratch,
}

/// What a root is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The host's system directories, and others.
    Host(Host),
    /// An image.
    Image(Image),
}

/// What is shown of the host beside its system directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Further directories.
    pub directories: Vec<PathBuf>,
    /// When files of `/etc`, of which the root holds copies, last came or went.
    etc: (i64, i64),
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
        let Some(path) = &plan.spec.image else {
            let directories = plan.host_directories.clone();
            return Ok(Self::Host(Host { directories, etc: last_change("/etc") }));
        };
        let found = fs::symlink_metadata(path).step(|| format!("look at the image `{}`", path.display()))?;
        let identity = (found.dev(), found.ino(), found.ctime(), found.ctime_nsec());
        Ok(Self::Image(Image { path: path.clone(), identity }))
    }
}

fn last_change(path: &str) -> (i64, i64) {
    fs::symlink_metadata(path).map_or((0, 0), |found| (found.ctime(), found.ctime_nsec()))
}

impl Outside {
    /// Moves this process into namespaces of its own.
    pub fn enter(plan: &Plan) -> Result<Self, Failure> {
        if plan.owner.is_none() {
            namespaces::become_own_master()?;
        }
        namespaces::unshare(libc::CLONE_NEWNS).step(|| "create a mount namespace".into())?;
        mounts::follow()?;
        namespaces::unshare(libc::CLONE_NEWUTS).step(|| "create a uts namespace".into())?;
        sethostname(b"mortar").step(|| "set the host name".into())?;
        let (network, ipc) = (Network::new()?, Ipc::new()?);
        let host = current_mounts()?;
        let nests = plan.assembly == Assembly::Best && nests();
        seccomp::Filter::standing().install().step(|| seccomp::STEP.into())?;
        Ok(Self { host, roots: Vec::new(), network, ipc, nests })
    }

    /// Whether mounts can be put into a view before it is mounted itself.
    pub fn nests(&self) -> bool {
        self.nests
    }

    /// Calls `inside` where the run's root is all there is, and returns to the host's files.
    pub fn within_root<T>(&mut self, plan: &Plan, inside: impl FnOnce() -> T) -> Result<T, Failure> {
        self.prepare(plan)?;
        let root = self.roots.last().expect("a root was just made or found");
        enter(&root.mounts)?;
        let result = inside();
        enter(&self.host)?;
        Ok(result)
    }

    /// Has the root of such runs stand last.
    fn prepare(&mut self, plan: &Plan) -> Result<(), Failure> {
        let shown = Shown::to(plan)?;
        if let Some(found) = self.roots.iter().position(|root| root.shown == shown) {
            let found = self.roots.remove(found);
            self.roots.push(found);
            self.empty_root(plan)?;
        }
        if self.roots.last().is_some_and(|root| root.shown == shown) {
            return Ok(());
        }
        let made = namespaces::unshare(libc::CLONE_NEWNS)
            .step(|| "create a mount namespace".into())
            .and_then(|()| template::build(&shown))
            .and_then(|()| Scratch::mount(plan.limits.scratch))
            .and_then(|scratch| Ok(Root { shown, mounts: current_mounts()?, scratch }));
        enter(&self.host)?;
        if self.roots.len() == ROOTS {
            self.roots.remove(0);
        }
        self.roots.push(made?);
        Ok(())
    }

    /// Leaves nothing of a run in the root that was last used, or else no such root.
    pub fn empty_root(&mut self, plan: &Plan) -> Result<(), Failure> {
        let most = plan.limits.scratch;
        let Some(mut root) = self.roots.pop_if(|root| !root.scratch.is_new(most)) else { return Ok(()) };
        let renewed = enter(&root.mounts).and_then(|()| root.scratch.renew(most));
        enter(&self.host)?;
        if renewed.is_ok() {
            self.roots.push(root);
        }
        Ok(())
    }

    /// Has the next run find a network in which nothing ever happened, and no objects of System V.
    pub fn renew(&mut self) -> Result<(), Failure> {
        self.network.renew()?;
        self.ipc.renew()
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
