//! Holds: single blobs that are kept for as long as this process says so, by a bit of their own on the use of each.
//!
//! A blob may be held before it is here; whoever writes it meanwhile holds it once more when it is. What is held is
//! bounded by who holds, not here. Bits that an earlier process left go when pins are set at the start.

use super::{DiskStore, Shared, key::Key, leases::HELD};
use mortar_model::{Digest, Holds};
use parking_lot::Mutex;
use std::collections::{HashMap, hash_map::Entry};

/// How often each thing is held.
#[derive(Default)]
pub(super) struct Held(Mutex<HashMap<Key, u32>>);

impl Holds for DiskStore {
    fn hold(&self, digest: Digest) -> bool {
        let key = Key::of(digest);
        let mut held = self.shared.held.0.lock();
        *held.entry(key).or_default() += 1;
        self.shared.set_held(&key)
    }

    fn release(&self, digest: Digest) {
        let key = Key::of(digest);
        let mut held = self.shared.held.0.lock();
        let Entry::Occupied(mut times) = held.entry(key) else { return };
        *times.get_mut() -= 1;
        if *times.get() == 0 {
            times.remove();
            self.shared.table.look(&key, |touch, _| touch & !u32::from(HELD));
        }
    }
}

impl Shared {
    /// Sets the bits of all that is held, and of nothing else.
    pub(super) fn set_holds(&self) {
        let held = self.held.0.lock();
        self.table.clear_promises(HELD);
        for key in held.keys() {
            self.set_held(key);
        }
    }

    /// Whether it is here.
    fn set_held(&self, key: &Key) -> bool {
        self.table.look(key, |touch, _| touch | u32::from(HELD)).is_some()
    }
}
