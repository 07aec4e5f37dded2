//! The few actions and platforms that histories are about.

use super::super::*;
use crate::Abandoned;
use mortar_model::{ActionResult, Digest, DigestFunction, Outcome, Platform, Termination};

pub(super) fn platform(number: usize) -> Platform {
    let pairs: &[&[(&str, &str)]] =
        &[&[], &[("os", "linux")], &[("os", "linux"), ("cpu", "arm")], &[("os", "plan9")]];
    Platform::new(pairs[number].iter().map(|(name, value)| (name.to_string(), value.to_string())))
}

/// An action always asks for the same.
pub(super) fn wanted(action: u8) -> Platform {
    platform(usize::from(action % 3))
}

/// And always needs the same: up to three processors, up to 20 bytes.
pub(super) fn need(action: u8) -> Need {
    Need { cpu_millis: u64::from(action % 4) * 1000, memory: u64::from(action / 3) * 20 }
}

pub(super) fn digest(action: u8, merge: bool) -> Digest {
    Digest::of(DigestFunction::Sha256, &[action, u8::from(merge)])
}

/// Which action that is, and whether it is merged.
pub(super) fn action_of(digest_of: Digest) -> (u8, bool) {
    let all = (0..6).flat_map(|action| [(action, true), (action, false)]);
    all.into_iter().find(|(action, merge)| digest(*action, *merge) == digest_of).unwrap()
}

pub(super) fn config() -> Config {
    let seconds = Duration::from_secs;
    Config {
        max_queued: 8,
        max_queue_time: seconds(300),
        max_unserved_time: seconds(60),
        start_grace: seconds(30),
        max_attempts: 3,
        heartbeat_interval: seconds(10),
        reattach_grace: seconds(4),
        recall_grace: seconds(20),
        patience: seconds(15),
        abandoned: Abandoned::FinishWhenIdle,
        ..Config::default()
    }
}

pub(super) fn nth<T>(things: impl Iterator<Item = T>, which: usize) -> Option<T> {
    let mut things: Vec<_> = things.collect();
    (!things.is_empty()).then(|| things.swap_remove(which % things.len()))
}

pub(super) fn success() -> Outcome {
    Outcome {
        result: ActionResult::default(),
        cached: false,
        termination: Termination::Exited,
        message: String::new(),
        server_logs: Vec::new(),
    }
}
