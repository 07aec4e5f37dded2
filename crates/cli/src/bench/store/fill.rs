//! Filling a store with many small blobs, as fast as it takes them. Blobs are numbered: a number tells the blob, so that
//! nothing has to be remembered of millions.

use super::{
    super::{
        content::{Content, Random},
        cpu,
        progress::Progress,
    },
    Args,
    engine::{Place, Ports},
};
use anyhow::Result;
use bytes::Bytes;
use mortar_model::{BlobStoreExt, Context, Digest, DigestFunction};
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::task::JoinSet;

/// The smallest blob that is told from all others.
pub(super) const SMALLEST: u64 = 64;
/// Writes under way: what a busy server has, so that a store can sync many at once.
const WRITERS: u64 = 256;
/// How often progress is told.
const STEPS: u64 = 10;

/// Blobs by number.
#[derive(Clone)]
pub(super) struct Numbered {
    pub(super) count: u64,
    pub(super) size: usize,
    content: Content,
    function: DigestFunction,
}

/// How filling went.
#[derive(Serialize)]
pub(super) struct Filled {
    pub(super) blobs: u64,
    size: usize,
    seconds: f64,
    pub(super) blobs_per_second: f64,
    bytes_per_second: f64,
    cpu_seconds: Option<f64>,
}

impl Numbered {
    pub(super) fn of(args: &Args, count: u64) -> Self {
        let size = args.size.0 as usize;
        Self { count, size, content: args.load.content, function: args.load.digest_function }
    }

    /// A blob. Numbers from `count` on are of blobs that were never written.
    pub(super) fn blob(&self, number: u64) -> (Digest, Bytes) {
        let mut bytes = self.content.bytes(&mut Random::of(number), self.size);
        bytes[..16].copy_from_slice(format!("{number:016x}").as_bytes());
        (Digest::of(self.function, &bytes), bytes.into())
    }
}

/// Writes all of them, and closes the store.
pub(super) async fn fill(place: &Place, numbered: &Numbered, progress: &Progress) -> Result<Filled> {
    let ports = place.open()?;
    let (next, cpu, began) = (Arc::new(AtomicU64::new(0)), cpu::own(), Instant::now());
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS.min(numbered.count) {
        writers.spawn(write(ports.clone(), numbered.clone(), next.clone()));
    }
    let step = numbered.count.div_ceil(STEPS);
    let mut written = 0;
    while let Some(one) = writers.join_next().await {
        let before = written;
        written += one??;
        if written / step > before / step {
            progress.line(&format!("filling: {written} of {} blobs", numbered.count));
        }
        if next.load(Ordering::Relaxed) < numbered.count {
            writers.spawn(write(ports.clone(), numbered.clone(), next.clone()));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let blobs = numbered.count;
    Ok(Filled {
        blobs,
        size: numbered.size,
        seconds,
        blobs_per_second: blobs as f64 / seconds,
        bytes_per_second: blobs as f64 * numbered.size as f64 / seconds,
        cpu_seconds: cpu.zip(cpu::own()).map(|(before, after)| (after.saturating_sub(before)).as_secs_f64()),
    })
}

/// Writes the next few; how many.
async fn write(ports: Ports, numbered: Numbered, next: Arc<AtomicU64>) -> Result<u64> {
    let mut written = 0;
    while written < 64 {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= numbered.count {
            break;
        }
        let (digest, bytes) = numbered.blob(number);
        ports.blobs.write_bytes(&Context::internal(), digest, bytes).await?;
        written += 1;
    }
    Ok(written)
}
