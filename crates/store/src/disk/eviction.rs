//! Keeps the store within its size: room is reserved before bytes are written, and what was not used for longest
//! makes room. Nothing goes before the walk has found everything, since until then nobody knows what is old.

use super::{Shared, index::footprint, layout::Key};
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

impl Shared {
    /// Refuses what could never fit.
    pub fn check_fits(&self, length: u64) -> Result<()> {
        if footprint(length) <= self.max_size {
            return Ok(());
        }
        let message = format!("{length} bytes do not fit into the store of {} bytes", self.max_size);
        Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }))
    }

    /// Removes files until the store is within its size, and some more. False if that cannot be reached.
    pub fn evict(&self) -> bool {
        if self.index.lock().total() <= self.max_size {
            return true;
        }
        let low_mark = self.max_size - self.max_size / 20;
        let promised_since = self.now().saturating_sub(self.policy.grace.as_nanos() as u64);
        let mut ahead = AHEAD;
        let mut started = false;
        loop {
            // Taken anew for each file, so that nobody waits for more than one.
            let names = self.names.lock();
            let mut index = self.index.lock();
            let over = index.total() > self.max_size;
            started |= over;
            if !index.complete || !started || (!over && (ahead == 0 || index.total() <= low_mark)) {
                return true;
            }
            let aside = match index.oldest() {
                None => return !over,
                Some((used, _)) if !over && used > promised_since => return true,
                Some((_, key)) => {
                    index.remove(key);
                    index.evictions += 1;
                    drop(index);
                    self.set_aside(key)
                }
            };
            drop(names);
            if let Some(path) = aside {
                let _ = fs::remove_file(path);
            }
            if !over {
                ahead -= 1;
            }
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
