//! The network that the next run gets: a namespace with nothing in it but loopback. Making one costs more than all
//! the others, so it is used again where that cannot be told from a new one: no socket is open in it, and none of its
//! counters has moved. Whatever sends, receives, or fails to, moves one of them, and without that there is nothing in
//! the kernel that would outlive the socket: no connection that lingers, no route that was learnt.

use super::{Failure, Step, namespaces};
use std::{fs::File, io, os::unix::fs::FileExt};

/// The first line of this counts the sockets here; the others are about the whole machine.
const SOCKETS: &str = "sockstat";
/// Counters of the interfaces, of each protocol, and of what went wrong in it; with whether every kernel has them.
const COUNTERS: [(&str, bool); 3] = [("dev", true), ("snmp", true), ("snmp6", false)];

/// This process's network, and what it looked like when it was new.
#[derive(Debug)]
pub struct Network {
    files: Vec<File>,
    unused: Vec<u8>,
}

impl Network {
    /// Moves this process into a new one.
    pub fn new() -> Result<Self, Failure> {
        namespaces::unshare(libc::CLONE_NEWNET).step(|| "create a network namespace".into())?;
        namespaces::raise_loopback().step(|| "bring loopback up".into())?;
        let open = |name| File::open(format!("/proc/self/net/{name}")).step(|| format!("open its `{name}`"));
        let mut files = vec![open(SOCKETS)?];
        for (name, always) in COUNTERS {
            match open(name) {
                Err(failure) if always => return Err(failure),
                opened => files.extend(opened),
            }
        }
        let unused = read(&files).step(|| "look at the new network".into())?;
        Ok(Self { files, unused })
    }

    /// Replaces it unless it is as good as new.
    pub fn renew(&mut self) -> Result<(), Failure> {
        if read(&self.files).is_ok_and(|found| found == self.unused) {
            return Ok(());
        }
        *self = Self::new()?;
        Ok(())
    }
}

fn read(files: &[File]) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(16 << 10);
    for (index, file) in files.iter().enumerate() {
        let start = all.len();
        loop {
            let (end, offset) = (all.len(), (all.len() - start) as u64);
            all.resize(end + (8 << 10), 0);
            let count = file.read_at(&mut all[end..], offset)?;
            all.truncate(end + count);
            if count == 0 {
                break;
            }
        }
        if index == 0 {
            let line = all.iter().position(|byte| *byte == b'\n').unwrap_or(all.len());
            all.truncate(line);
        }
    }
    Ok(all)
}
