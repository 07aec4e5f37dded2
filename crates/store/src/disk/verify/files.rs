//! A large blob under verification: its file is read piece by piece and compared with what its record says.

use super::{Pass, STEP, Verdict, named};
use crate::disk::{
    key::Key,
    leases::Stamp,
    pieces::PIECE,
    read::{Found, Opened},
};
use mortar_model::{Encoding, Error, Hasher, Kind};
use std::sync::atomic::Ordering::Relaxed;

/// One file, as far as it was read.
pub(super) struct FileCheck {
    key: Key,
    size: u64,
    opened: Opened,
    next: usize,
    hasher: Option<Hasher>,
}

impl FileCheck {
    /// Opens the file of a blob, if there is still something to check.
    pub(super) fn begin(pass: &mut Pass, key: Key, size: u64) -> Option<Self> {
        let lost_before = pass.shared.counters.lost.load(Relaxed);
        match pass.shared.find_blocking(key, Some(size), Stamp::glance()) {
            Ok(Some(Found::File(opened))) => {
                let function = key.space.function().filter(|_| pass.deep);
                Some(Self { key, size, opened, next: 0, hasher: function.map(Hasher::new) })
            }
            // It was evicted or replaced meanwhile, unless its file was found to be gone.
            Ok(_) => {
                if pass.shared.counters.lost.load(Relaxed) > lost_before {
                    pass.found(Verdict::Lost, named(&key), "its file is gone");
                }
                None
            }
            Err(error) => {
                failed(pass, &key, &error);
                None
            }
        }
    }

    /// Checks some pieces. Whether there are more.
    pub(super) fn step(&mut self, pass: &mut Pass) -> bool {
        let mut read = 0;
        while read < STEP && self.next < self.opened.pieces.len() {
            match self.piece(pass) {
                Ok(bytes) => read += bytes,
                Err(error) => {
                    failed(pass, &self.key, &error);
                    return false;
                }
            }
            self.next += 1;
        }
        pass.now.done += read;
        let more = self.next < self.opened.pieces.len();
        if !more {
            self.finish(pass);
        }
        more
    }

    fn piece(&mut self, pass: &Pass) -> Result<u64, Error> {
        let bytes = pass.shared.piece(&self.opened, self.next)?;
        let length = bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            let content = (self.size - self.next as u64 * PIECE).min(PIECE) as usize;
            match pass.shared.content_of_piece(&self.opened, bytes, content) {
                Ok(content) => hasher.update(&content),
                // Its checksum is right and still it is none: the hash at the end tells.
                Err(error) => tracing::debug!(key = ?self.key, %error, "a piece cannot be decompressed"),
            }
        }
        Ok(length)
    }

    fn finish(&mut self, pass: &mut Pass) {
        let wrong_hash = self.hasher.take().is_some_and(|hasher| {
            let actual = hasher.finish();
            actual.hash() != &self.key.hash || actual.size() != self.size
        });
        let too_long = self.opened.encoding == Encoding::Identity
            && self.opened.disk.length().is_ok_and(|length| length != self.size);
        let flaw = match (wrong_hash, too_long) {
            (true, _) => "its content has another hash",
            (_, true) => "its file has another length",
            (false, false) => return pass.checked(&self.key),
        };
        if let Some(entry) = pass.shared.table.get(&self.key) {
            pass.shared.quarantine(self.key, &entry, flaw);
        }
        pass.found(Verdict::Damaged, named(&self.key), flaw);
    }
}

/// What is damaged is in quarantine by now; what the disk refused is not.
fn failed(pass: &mut Pass, key: &Key, error: &Error) {
    match error.kind() {
        Kind::DataLoss { .. } => {
            pass.found(Verdict::Damaged, named(key), "its record or its file is damaged")
        }
        _ => pass.found(Verdict::Unreadable, named(key), error.to_string()),
    }
}
