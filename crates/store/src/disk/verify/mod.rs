//! Verification: everything that the store says it has is read and checked, and what lies on disk that it does not
//! know of is taken up or removed. For people and for idle hours; requests go on meanwhile.
//!
//! Three passes, each in small steps on blocking threads, so that it can be watched, slowed and stopped anywhere:
//! - `records`: all segments in order, with the files that their records tell of
//! - `strays`: what the first pass found and the index does not know; then the files that nobody told of
//! - the accounts are counted anew
//!
//! What is damaged goes to quarantine, as when a reader finds it.

mod files;
mod records;
mod strays;
#[cfg(test)]
mod tests;

use super::{DiskStore, Shared, key::Key, table, usage::Figures};
use crate::blocking::hop;
use futures::stream::{self, BoxStream, StreamExt};
use mortar_model::Result;
use records::Records;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use strays::Strays;

/// Bytes that are read in one step.
const STEP: u64 = 4 << 20;
/// So often things are counted until nothing changes meanwhile.
const COUNTS: usize = 8;

/// How a store is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Content is hashed and compared with its digest, besides the checksums of what is on disk.
    pub deep: bool,
    /// Rests after each step for as long as that took: at most half of one thread's time is used.
    pub gentle: bool,
}

/// What a verification has found so far; in the last step, in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs that were checked.
    pub blobs: u64,
    /// Action results, values and other records that were checked.
    pub records: u64,
    /// Things that were damaged, and are in quarantine.
    pub damaged: u64,
    /// Things that were gone from the disk, and are forgotten.
    pub lost: u64,
    /// Things that the disk refused to read, and that are left as they are.
    pub unreadable: u64,
    /// Blobs that the index did not know and that are taken up again.
    pub recovered: u64,
    /// Files that were no blob's, and are removed.
    pub removed: u64,
    /// The accounts were wrong, and are corrected.
    pub recounted: bool,
}

impl VerifyReport {
    /// Nothing that was kept is damaged, gone or out of reach.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0 && self.lost == 0 && self.unreadable == 0
    }
}

/// What became of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in quarantine.
    Damaged,
    /// It was gone, and is forgotten.
    Lost,
    /// It is left as it is.
    Unreadable,
    /// It is known again.
    Recovered,
    /// It was of no use, and is gone.
    Removed,
}

/// One thing that was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What became of it.
    pub verdict: Verdict,
    /// Its kind and hash, or where it lies in the store.
    pub name: String,
    /// What was wrong.
    pub why: String,
}

/// What one step brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyStep {
    /// Bytes that were read so far.
    pub done: u64,
    /// Bytes that are to be read, as far as that is known.
    pub total: u64,
    /// What was found in this step.
    pub findings: Vec<Finding>,
    /// The figures so far.
    pub report: VerifyReport,
    /// This was the last step.
    pub finished: bool,
}

impl DiskStore {
    /// Verifies the store step by step, for as long as the stream is asked for more.
    pub fn verify(&self, options: VerifyOptions) -> BoxStream<'static, Result<VerifyStep>> {
        let verification = Verification::new(self.shared.clone(), options);
        stream::try_unfold((Some(verification), Duration::ZERO), move |(verification, rest)| async move {
            let Some(verification) = verification else { return Ok(None) };
            if options.gentle {
                tokio::time::sleep(rest).await;
            }
            let begun = Instant::now();
            let (verification, step) = hop(move || Ok(verification.step())).await?;
            let left = (!step.finished).then_some(verification);
            Ok(Some((step, (left, begun.elapsed()))))
        })
        .boxed()
    }
}

/// A verification under way. All methods block.
struct Verification {
    pass: Pass,
    stage: Stage,
}

enum Stage {
    Begun,
    Records(Records),
    Strays(Strays),
    Accounts,
}

/// What all stages need, and what they found in this step.
struct Pass {
    shared: Arc<Shared>,
    deep: bool,
    now: VerifyStep,
}

impl Verification {
    fn new(shared: Arc<Shared>, options: VerifyOptions) -> Self {
        let pass = Pass { shared, deep: options.deep, now: VerifyStep::default() };
        Self { pass, stage: Stage::Begun }
    }

    fn step(mut self) -> (Self, VerifyStep) {
        let pass = &mut self.pass;
        self.stage = match self.stage {
            Stage::Begun => Stage::Records(Records::begin(pass)),
            Stage::Records(mut records) => match records.step(pass) {
                true => Stage::Records(records),
                false => Stage::Strays(Strays::begin(pass, records)),
            },
            Stage::Strays(mut strays) => match strays.step(pass) {
                true => Stage::Strays(strays),
                false => Stage::Accounts,
            },
            Stage::Accounts => {
                pass.now.report.recounted = pass.shared.recount();
                pass.now.finished = true;
                Stage::Accounts
            }
        };
        pass.now.total = pass.now.total.max(pass.now.done);
        let step = pass.now.clone();
        pass.now.findings.clear();
        (self, step)
    }
}

impl Pass {
    fn found(&mut self, verdict: Verdict, name: impl Into<String>, why: impl Into<String>) {
        let report = &mut self.now.report;
        *match verdict {
            Verdict::Damaged => &mut report.damaged,
            Verdict::Lost => &mut report.lost,
            Verdict::Unreadable => &mut report.unreadable,
            Verdict::Recovered => &mut report.recovered,
            Verdict::Removed => &mut report.removed,
        } += 1;
        self.now.findings.push(Finding { verdict, name: name.into(), why: why.into() });
    }

    fn checked(&mut self, key: &Key) {
        match key.space.function() {
            Some(_) => self.now.report.blobs += 1,
            None => self.now.report.records += 1,
        }
    }
}

/// How findings name a thing.
fn named(key: &Key) -> String {
    format!("{} {}", key.space.name(), key.hex())
}

impl Shared {
    /// Counts anew what there is. Whether the accounts were wrong.
    fn recount(&self) -> bool {
        for _ in 0..COUNTS {
            let before = (self.usage.files(), self.usage.counts());
            let mut counted = Figures::default();
            self.table.visit(|entry, _| {
                counted.add(entry, 1);
                table::Verdict::Keep
            });
            if (self.usage.files(), self.usage.counts()) == before {
                self.usage.set(counted);
                return (self.usage.files(), self.usage.counts()) != before;
            }
        }
        // So much comes and goes that no count holds for a moment; the next one may.
        false
    }
}
