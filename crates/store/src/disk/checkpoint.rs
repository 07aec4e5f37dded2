//! How far the index is durable, and what else the next run has to know. One small file, replaced as a whole.
//!
//! ```text
//! mortar checkpoint 1
//! clean 0|1            1: the last run ended in order
//! applied SEGMENT END  all records before this place are in the index
//! sequence N           no record has a higher one, but for those after that place
//! files BYTES          what blobs that are files take on disk
//! counts B R V         blobs, results, values
//! now M, origin M      minutes since the epoch: when it was written, and minute 0 of uses
//! invocation BIT ID    one line for each that runs
//! sum HEX              XXH3 of all lines before, with the store's secret
//! ```

use super::{Shared, leases::Saved, medium::Medium};
use std::{
    fmt::Write,
    io,
    path::Path,
    time::{Duration, Instant},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const TITLE: &str = "mortar checkpoint 1";
/// After so many bytes of records, or so much time, the index is made durable again.
const EVERY_BYTES: u64 = 64 << 20;
const EVERY: Duration = Duration::from_secs(60);
/// Where that failed, it is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub clean: bool,
    pub applied: (u32, u64),
    pub sequence: u64,
    pub files: u64,
    pub counts: [u64; 3],
    pub leases: Saved,
}

impl Checkpoint {
    /// What the last run left; none if nothing that can be read.
    pub fn load(path: &Path, secret: u64) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let checkpoint = Self::parse(&text, secret);
        if checkpoint.is_none() {
            tracing::warn!("the store's checkpoint is damaged; all segments are read");
        }
        checkpoint
    }

    fn parse(text: &str, secret: u64) -> Option<Self> {
        let (body, sum) = text.trim_end().rsplit_once("\nsum ")?;
        if u64::from_str_radix(sum, 16).ok()? != xxh3_64_with_seed(body.as_bytes(), secret) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let mut checkpoint = Self::default();
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            let mut words = value.splitn(3, ' ');
            let mut number = || words.next()?.parse::<u64>().ok();
            match name {
                "clean" => checkpoint.clean = number()? == 1,
                "applied" => checkpoint.applied = (number()? as u32, number()?),
                "sequence" => checkpoint.sequence = number()?,
                "files" => checkpoint.files = number()?,
                "counts" => checkpoint.counts = [number()?, number()?, number()?],
                "now" => checkpoint.leases.now = number()?,
                "origin" => checkpoint.leases.origin = number()?,
                "invocation" => {
                    let (bit, name) = value.split_once(' ')?;
                    checkpoint.leases.invocations.push((bit.parse().ok()?, name.into()));
                }
                _ => return None,
            }
        }
        Some(checkpoint)
    }

    fn text(&self, secret: u64) -> String {
        let (leases, [blobs, results, values]) = (&self.leases, self.counts);
        let mut text = format!(
            "{TITLE}\nclean {}\napplied {} {}\nsequence {}\nfiles {}\ncounts {blobs} {results} {values}\nnow {}\norigin {}",
            u8::from(self.clean),
            self.applied.0,
            self.applied.1,
            self.sequence,
            self.files,
            leases.now,
            leases.origin,
        );
        for (bit, name) in &leases.invocations {
            // A name with line ends would be two lines.
            if !name.contains(['\n', '\r']) {
                let _ = write!(text, "\ninvocation {bit} {name}");
            }
        }
        let sum = xxh3_64_with_seed(text.as_bytes(), secret);
        let _ = writeln!(text, "\nsum {sum:016x}");
        text
    }

    pub fn save(&self, path: &Path, secret: u64, medium: &Medium) -> io::Result<()> {
        medium.replace(path, self.text(secret).as_bytes())
    }
}

/// How far things have come since the start.
pub(super) struct Progress {
    /// All records before this place are in the index.
    pub applied: (u32, u64),
    /// The highest sequence that may have been given out.
    pub sequence: u64,
    /// Bytes appended, and of those the ones before the last checkpoint.
    pub appended: u64,
    pub saved: u64,
    pub saved_at: Instant,
    /// When it failed, if it did the last time; people know it then.
    pub unsaved: Option<Instant>,
    /// The log is to turn to a new segment.
    pub seal: bool,
    /// The last time, that could not be done, and people know it.
    pub stuck: bool,
}

impl Progress {
    /// At the start, when all before `applied` is in the index.
    pub fn begun(applied: (u32, u64), sequence: u64) -> Self {
        let (appended, saved, saved_at) = (0, 0, Instant::now());
        Self { applied, sequence, appended, saved, saved_at, unsaved: None, seal: false, stuck: false }
    }

    /// Whether it is time for a checkpoint.
    fn is_due(&self, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at);
        let much = self.appended - self.saved >= EVERY_BYTES || since(self.saved_at) >= EVERY;
        much && self.unsaved.is_none_or(|at| since(at) >= AGAIN)
    }
}

impl Shared {
    pub(super) fn checkpoint_if_due(&self) {
        if self.progress.lock().is_due(Instant::now()) {
            self.checkpoint(false);
        }
    }

    /// Makes the index durable, and writes down how far it has come.
    pub(super) fn checkpoint(&self, clean: bool) {
        // What is left of strays is looked for by the next run.
        let clean = clean && self.remove_strays();
        let saved = self.try_checkpoint(clean);
        let unsaved = saved.is_err().then(Instant::now);
        let was_unsaved = std::mem::replace(&mut self.progress.lock().unsaved, unsaved).is_some();
        match saved {
            Err(error) if !was_unsaved => {
                tracing::error!(%error, "the index could not be made durable; a restart would take longer");
            }
            Ok(()) if was_unsaved => tracing::info!("the index is durable again"),
            _ => {}
        }
    }

    /// Takes note that a run has begun that has not ended in order. If that cannot be written down, there is to be no
    /// checkpoint at all.
    pub(super) fn begin_run(&self) -> io::Result<()> {
        let Err(error) = self.try_checkpoint(false) else { return Ok(()) };
        tracing::warn!(%error, "the checkpoint could not be written; it is removed");
        self.medium.remove(&self.layout.checkpoint())?;
        self.medium.sync_directory(self.layout.root())
    }

    fn try_checkpoint(&self, clean: bool) -> io::Result<()> {
        // Taken first: what is applied by now is in what is flushed next.
        let (applied, sequence, appended) = {
            let progress = self.progress.lock();
            (progress.applied, progress.sequence, progress.appended)
        };
        let counts = self.usage.counts();
        let checkpoint = Checkpoint {
            clean,
            applied,
            sequence,
            files: self.usage.files(),
            counts,
            leases: self.leases.saved(),
        };
        self.table.flush()?;
        self.table.save_touches()?;
        checkpoint.save(&self.layout.checkpoint(), self.secret, &self.medium)?;
        let mut progress = self.progress.lock();
        (progress.saved, progress.saved_at) = (appended, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_due_by_bytes_by_time_and_some_time_after_one_that_failed() {
        let mut progress = Progress::begun((0, 0), 0);
        let begin = progress.saved_at;
        let due = |progress: &Progress, seconds| progress.is_due(begin + Duration::from_secs(seconds));
        assert!(!due(&progress, 59) && due(&progress, 60));
        progress.appended = EVERY_BYTES;
        assert!(due(&progress, 0));
        progress.unsaved = Some(begin);
        assert!(!due(&progress, 9) && due(&progress, 10));
        (progress.saved, progress.unsaved) = (EVERY_BYTES, None);
        assert!(!due(&progress, 10));
    }

    #[test]
    fn a_checkpoint_comes_back_or_is_refused() {
        let leases = Saved { now: 29_000_000, origin: 28_000_000, invocations: vec![(4, "a b c".into())] };
        let checkpoint = Checkpoint {
            clean: true,
            applied: (7, 4096),
            sequence: 99,
            files: 8192,
            counts: [3, 2, 1],
            leases,
        };
        let text = checkpoint.text(5);
        assert_eq!(Checkpoint::parse(&text, 5), Some(checkpoint));
        assert_eq!(Checkpoint::parse(&text, 6), None);
        for at in 0..text.len() - 1 {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            let parsed = std::str::from_utf8(&damaged).ok().and_then(|text| Checkpoint::parse(text, 5));
            assert_eq!(parsed, None, "byte {at}");
        }
    }
}
