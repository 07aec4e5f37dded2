//! The System V objects and message queues that the next run finds: none. Making a namespace for them costs several
//! times what it takes to see that the one there is empty, so it is used again then. Nothing but such objects could
//! tell of an earlier run: its settings are this process's to change, which no command is.

use super::{Failure, Step, check, namespaces};
use rustix::{
    fs::{Stat, fstat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};
use std::{io, os::fd::OwnedFd};

/// This process's own.
#[derive(Debug)]
pub struct Ipc {
    queues: Queues,
}

/// The directory in which message queues lie.
#[derive(Debug)]
enum Queues {
    /// With what it looked like when it was new.
    In(OwnedFd, Look),
    /// This kernel has none.
    None,
    /// It cannot be looked at.
    Unknown,
}

/// What every queue changes that is made or removed: size, and the time of the last change.
type Look = (i64, i64, i64);

impl Ipc {
    /// Moves this process into a new namespace for them.
    pub fn new() -> Result<Self, Failure> {
        namespaces::unshare(libc::CLONE_NEWIPC).step(|| "create an ipc namespace".into())?;
        Ok(Self { queues: Queues::open() })
    }

    /// Replaces it unless it is empty.
    pub fn renew(&mut self) -> Result<(), Failure> {
        if !(self.queues.are_untouched() && objects().is_ok_and(|objects| objects == 0)) {
            *self = Self::new()?;
        }
        Ok(())
    }
}

impl Queues {
    fn open() -> Self {
        let mount = || -> Result<OwnedFd, Errno> {
            let context = fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        match mount().and_then(|root| Ok((fstat(&root)?, root))) {
            Ok((found, root)) => Self::In(root, look(&found)),
            Err(Errno::NODEV) => Self::None,
            Err(_) => Self::Unknown,
        }
    }

    fn are_untouched(&self) -> bool {
        match self {
            Self::In(root, new) => fstat(root).is_ok_and(|found| look(&found) == *new),
            Self::None => true,
            Self::Unknown => false,
        }
    }
}

fn look(found: &Stat) -> Look {
    (found.st_size, found.st_ctime, found.st_ctime_nsec as i64)
}

/// How many segments of shared memory, sets of semaphores and System V queues there are.
fn objects() -> io::Result<i64> {
    const SHM_INFO: libc::c_int = 14;
    const SEM_INFO: libc::c_int = 19;
    const MSG_INFO: libc::c_int = 12;
    /// Where their numbers are in what the kernel tells: `shm_info`, `seminfo` and `msginfo` begin with as many of these.
    const COUNTS: [usize; 3] = [0, 7, 0];
    let mut told = [[0 as libc::c_int; 32]; 3];
    // SAFETY: each call fills a structure that is known by its command and shorter than what it is given, and takes no
    // other pointer.
    unsafe {
        check(libc::shmctl(0, SHM_INFO, told[0].as_mut_ptr().cast()).into())?;
        check(libc::semctl(0, 0, SEM_INFO, told[1].as_mut_ptr()).into())?;
        check(libc::msgctl(0, MSG_INFO, told[2].as_mut_ptr().cast()).into())?;
    }
    Ok(told.iter().zip(COUNTS).map(|(told, count)| i64::from(told[count])).sum())
}
