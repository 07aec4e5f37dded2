//! What upstreams offer, kept in a file, so that a companion knows it also while they are away.

use mortar_model::{DigestFunction, Error, Result};
use mortar_remote::Capabilities;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What one instance of an upstream offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// It executes actions.
    pub executes: bool,
    /// It takes action results.
    pub updates: bool,
    /// What it calls present stays so long.
    pub lease: Duration,
    /// It speaks BLAKE3 besides SHA-256.
    pub blake3: bool,
    /// It said how long its leases are: it is one of ours.
    pub ours: bool,
}

impl Terms {
    /// The digest functions.
    pub fn functions(&self) -> Vec<DigestFunction> {
        let spoken = |function: &DigestFunction| self.blake3 || *function == DigestFunction::Sha256;
        DigestFunction::ALL.into_iter().filter(spoken).collect()
    }
}

/// What is known of all of them.
pub(crate) struct TermsBook {
    path: PathBuf,
    foreign_lease: Duration,
    known: Mutex<BTreeMap<String, Terms>>,
}

impl TermsBook {
    /// The book in this file. What cannot be read is as good as not known. `foreign_lease` is what is believed of
    /// upstreams that say nothing.
    pub fn open(path: PathBuf, foreign_lease: Duration) -> Self {
        let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, foreign_lease, known: Mutex::new(known.unwrap_or_default()) }
    }

    /// What an instance of an upstream said the last time.
    pub fn known(&self, uri: &str, instance: &str) -> Option<Terms> {
        self.known.lock().get(&name(uri, instance)).copied()
    }

    /// What is believed of one that never said anything.
    pub fn assumed(&self) -> Terms {
        Terms { executes: true, updates: true, lease: self.foreign_lease, blake3: true, ours: false }
    }

    /// Takes note of what an upstream says.
    pub fn learn(&self, uri: &str, instance: &str, told: &Capabilities) {
        let terms = Terms {
            executes: told.execution,
            updates: told.action_cache_updates,
            lease: told.lease.unwrap_or(self.foreign_lease),
            blake3: told.digest_functions.contains(&DigestFunction::Blake3),
            ours: told.lease.is_some(),
        };
        let mut known = self.known.lock();
        if known.insert(name(uri, instance), terms) == Some(terms) {
            return;
        }
        if let Err(error) = save(&self.path, &known) {
            tracing::warn!("{error}");
        }
    }
}

fn name(uri: &str, instance: &str) -> String {
    format!("{uri} {instance}")
}

fn save(path: &Path, known: &BTreeMap<String, Terms>) -> Result<()> {
    let fresh = path.with_extension("new");
    let text = serde_json::to_vec_pretty(known).map_err(io::Error::other);
    text.and_then(|text| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|error| Error::io(format!("writing `{}`", path.display()), error))
}
