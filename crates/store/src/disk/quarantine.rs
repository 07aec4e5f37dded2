//! What was found damaged is put aside, so that it costs itself alone and somebody can look at it: the newest of it.

use super::{
    BLOCK, Shared,
    frame::{HEADER, Place},
    key::Key,
    leases::Hold,
    table::{Entry, Form},
    usage,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
};

/// How many are kept.
const KEPT: usize = 100;

impl Shared {
    /// Takes a damaged thing out of the index and puts its bytes aside, unless it was replaced meanwhile. Blocks.
    pub(super) fn quarantine(&self, key: Key, found: &Entry, why: &str) {
        let mut hold = Hold::Free;
        let removed = self.table.remove(&key, |entry, touch| {
            hold = self.leases.judge().hold(touch);
            entry.place == found.place
        });
        let Some(entry) = removed else { return };
        tracing::error!(?key, why, "a damaged thing is missing from the store from now on");
        self.usage.replaced(Some(&entry), None);
        self.counters.quarantined.fetch_add(1, Relaxed);
        if hold == Hold::Hard {
            self.counters.violations.fetch_add(1, Relaxed);
        }
        // The time comes first, so that names sort by age.
        let now = mortar_model::clock::since_epoch(self.clock.wall()).as_nanos();
        let aside = self.layout.quarantine().join(format!("{now:020}-{}-{}", key.space.name(), key.hex()));
        match entry.form {
            Form::Record => self.copy_record(&entry, &aside),
            Form::File => self.move_file(key, &aside),
        }
        if let Ok(metadata) = fs::metadata(&aside) {
            usage::add(&self.usage.quarantine, metadata.len().next_multiple_of(BLOCK) as i64);
        }
        self.forget_oldest();
    }

    /// As `quarantine`, where only the place is known.
    pub(super) fn quarantine_place(&self, place: Place) {
        let mut lost = Vec::new();
        self.table.visit(|entry, _| match entry.place == place {
            true => {
                lost.push(*entry);
                super::table::Verdict::Remove
            }
            false => super::table::Verdict::Keep,
        });
        for entry in lost {
            self.usage.replaced(Some(&entry), None);
            self.counters.quarantined.fetch_add(1, Relaxed);
        }
    }

    fn copy_record(&self, entry: &Entry, aside: &Path) {
        let Ok(disk) = self.segments.disk(entry.place.segment) else { return };
        let offset = u64::from(entry.place.offset);
        if let Ok(bytes) = disk.read_at(offset, HEADER + entry.stored as usize) {
            let _ = fs::write(aside, bytes);
        }
    }

    fn move_file(&self, key: Key, aside: &Path) {
        self.log_removal(&[key]);
        if !self.names.begin_removal(key) {
            // Somebody has it in use, or brings it anew; that one replaces or removes it.
            return;
        }
        for path in self.file_paths(key) {
            let _ = self.medium.rename(&path, aside);
        }
        self.names.end_removal(key);
    }

    fn forget_oldest(&self) {
        let mut kept = files_of(&self.layout.quarantine());
        kept.sort();
        for path in kept.iter().rev().skip(KEPT) {
            let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
            if fs::remove_file(path).is_ok() {
                usage::add(&self.usage.quarantine, -(length.next_multiple_of(BLOCK) as i64));
            }
        }
    }

    /// What lies in quarantine since earlier runs.
    pub(super) fn count_quarantine(&self) {
        let lengths =
            files_of(&self.layout.quarantine()).into_iter().filter_map(|path| fs::metadata(path).ok());
        let bytes: u64 = lengths.map(|metadata| metadata.len().next_multiple_of(BLOCK)).sum();
        self.usage.quarantine.store(bytes, Relaxed);
    }
}

fn files_of(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
