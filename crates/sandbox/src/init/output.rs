//! How much a run has written: the files in its writable directories that are its own, and its logs.

use super::Plan;
use crate::spec;
use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Looks at a run's outputs, but spends little of its time on that.
#[derive(Debug)]
pub struct Watch<'a> {
    plan: &'a Plan,
    most: Option<u64>,
    started: SystemTime,
    next: Instant,
}

const SELDOMEST: Duration = Duration::from_secs(1);

impl<'a> Watch<'a> {
    /// Begins with the run.
    pub fn new(plan: &'a Plan) -> Self {
        let (started, next) = (SystemTime::now(), Instant::now() + SELDOMEST);
        Self { plan, most: plan.limits.output.filter(|_| !plan.spec.converses), started, next }
    }

    /// How long until it is time to look; never, where there is no limit.
    pub fn wait(&self) -> Option<Duration> {
        self.most.map(|_| self.next.saturating_duration_since(Instant::now()))
    }

    /// Whether there is too much, if it is time to look.
    pub fn exceeded_by_now(&mut self) -> bool {
        if self.wait() != Some(Duration::ZERO) {
            return false;
        }
        let before = Instant::now();
        let exceeded = self.most.is_some_and(|most| self.sum(most) > most);
        self.next = Instant::now() + SELDOMEST.max(before.elapsed() * 20);
        exceeded
    }

    /// Whether there is too much at the end; as much as may be is too much for a command that failed, since it was
    /// refused more.
    pub fn exceeded_at_end(&self, failed: bool) -> bool {
        self.most.is_some_and(|most| {
            let sum = self.sum(most);
            sum > most || (failed && sum == most)
        })
    }

    /// The bytes written, or some number above `enough` as soon as that is known.
    fn sum(&self, enough: u64) -> u64 {
        let directory = &self.plan.spec.directory;
        let logs = [spec::STDOUT, spec::STDERR].map(|name| directory.join(name));
        let exec = directory.join(spec::EXEC);
        let mut pending: Vec<PathBuf> = logs.into_iter().collect();
        pending.extend(self.plan.spec.writable.iter().map(|path| exec.join(path)));
        let mut sum = 0;
        while let Some(path) = pending.pop() {
            // What cannot be read has gone in between, or is closed to an ordinary user, as to the collection later.
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                pending.extend(entries(&path));
            } else if found.is_file() && self.is_own(&found) {
                // A file with holes takes what it holds, and one that is deferred what it says.
                sum += (found.blocks() * 512).max(if found.blocks() == 0 { found.len() } else { 0 });
            }
            if sum > enough {
                break;
            }
        }
        sum
    }

    /// Inputs may lie beside outputs. They belong to others, or are older; as hard links they may have been linked anew.
    fn is_own(&self, found: &Metadata) -> bool {
        if let Some((owner, _)) = self.plan.owner {
            return found.uid() == owner;
        }
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        let at = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let (modified, changed) =
            (at(found.mtime(), found.mtime_nsec()), at(found.ctime(), found.ctime_nsec()));
        modified >= started || (found.nlink() == 1 && changed >= started)
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
