//! Keeps the store within its size: room is reserved before bytes are written, and what was not used for longest
//! makes room. Nothing goes before the walk has found everything, since until then nobody knows what is old.
//!
//! An upload that nobody holds goes in its turn too, by its last use; but before any file that was promised within
//! the grace, since it is promised to nobody, and so before a write is refused. One that somebody holds stays.

use super::{
    Shared,
    index::{Index, Time, footprint},
    layout::Key,
};
use mortar_model::{Error, Kind, Result};
use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

/// Beyond what one write needs, this many files go at once, so that the next writes find room.
const AHEAD: usize = 256;
/// After this time other writes may have ended.
const RETRY: Duration = Duration::from_secs(1);

/// Room for a file that is being written; given back when dropped.
pub(super) struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, bytes: 0 }
    }

    /// Makes sure that there is room for `length` bytes in all.
    pub fn reach(&mut self, length: u64) -> Result<()> {
        let more = footprint(length).saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        self.shared.index.lock().in_flight += more;
        self.bytes += more;
        match self.shared.evict() {
            true => Ok(()),
            false => Err(Error::new(Kind::ResourceExhausted {
                message: "the store is full with what is being written and used now".into(),
                retry_after: Some(RETRY),
            })),
        }
    }

    /// Gives the room back, to an index that is locked.
    pub fn release(mut self, index: &mut super::index::Index) {
        index.in_flight -= std::mem::take(&mut self.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.index.lock().in_flight -= self.bytes;
        }
    }
}

/// What makes room next.
enum Next {
    /// The upload that was left first.
    Upload,
    File(Key),
    Nothing,
}

impl Shared {
    /// Refuses what could never fit.
    pub fn check_fits(&self, length: u64) -> Result<()> {
        if footprint(length) <= self.max_size {
            return Ok(());
        }
        let message = format!("{length} bytes do not fit into the store of {} bytes", self.max_size);
        Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }))
    }

    /// Drops uploads that were left too long ago.
    pub fn expire_uploads(&self) {
        if let Some(uploads) = self.uploads.upgrade() {
            uploads.expire();
        }
    }

    /// Makes room until the store is within its size, and some more. False if that cannot be reached.
    pub fn evict(&self) -> bool {
        if self.index.lock().total() <= self.max_size {
            return true;
        }
        let low_mark = self.max_size - self.max_size / 20;
        // Before the locks, so that it goes after them if it is the last.
        let uploads = self.uploads.upgrade();
        let (mut ahead, mut started) = (AHEAD, false);
        loop {
            // Taken anew for each file, so that nobody waits for more than one.
            let names = self.names.lock();
            let idle = uploads.as_ref().and_then(|uploads| uploads.longest_idle());
            let mut index = self.index.lock();
            let over = index.total() > self.max_size;
            started |= over;
            if !index.complete || !started || (!over && (ahead == 0 || index.total() <= low_mark)) {
                return true;
            }
            match self.next(&index, idle, over) {
                Next::Nothing => return !over,
                Next::Upload => {
                    drop(index);
                    // With the names locked, so that nobody else drops another for the same room.
                    uploads.iter().for_each(|uploads| uploads.drop_idlest());
                }
                Next::File(key) => {
                    index.remove(key);
                    index.evictions += 1;
                    drop(index);
                    let aside = self.set_aside(key);
                    drop(names);
                    aside.map(fs::remove_file);
                }
            }
            ahead -= usize::from(!over);
        }
    }

    /// `idle`: how long ago the upload was used that was left first. Only where the store is `over` its size does
    /// anything go that was used within the grace.
    fn next(&self, index: &Index, idle: Option<Duration>, over: bool) -> Next {
        let before = |time: Duration| self.now().saturating_sub(time.as_nanos() as Time);
        let promised_since = before(self.policy.grace);
        let may_go = |used: &Time| over || *used <= promised_since;
        let upload = idle.map(before).filter(may_go);
        let file = index.oldest().filter(|(used, _)| may_go(used));
        match (upload, file) {
            (None, None) => Next::Nothing,
            (Some(left), Some((used, key))) if used < left && used <= promised_since => Next::File(key),
            (Some(_), _) => Next::Upload,
            (None, Some((_, key))) => Next::File(key),
        }
    }

    /// Takes away a file's name at once; freeing it takes longer and is done without the lock.
    fn set_aside(&self, key: Key) -> Option<PathBuf> {
        let aside = self.layout.temp_path();
        match fs::rename(self.layout.path(key), &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!(key = key.hex(), %error, "a file of the store could not be evicted");
                None
            }
        }
    }
}
