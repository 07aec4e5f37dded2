//! A store that is full, under builds: whether it keeps its promises, and how fast it still is.

use super::{
    super::{
        content::{Mint, Random},
        load::{Done, Drive, Failure, Load, Measured, Worker, drive},
        mix::Sizes,
        progress::Progress,
    },
    Args,
    engine::{Place, Ports},
    loads::{read, result_of},
};
use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use mortar_model::{
    ActionKey, BlobStoreExt, Context, Digest, DigestFunction, DigestSet, Error, RequestMetadata,
    context::Promise,
};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Actions of a build, and the inputs and outputs of each.
const BUILD: (usize, usize, usize) = (10, 8, 2);
/// Results of earlier builds that are remembered, to be asked for again.
const REMEMBERED: usize = 4096;
/// Parts of the duration that are told apart.
const SLICES: u32 = 10;
/// Before a refused write is repeated.
const REST: Duration = Duration::from_millis(200);
/// Blobs that are written at the same time to fill the store.
const WRITERS: usize = 64;

/// What was found.
#[derive(Serialize)]
pub(super) struct Endurance {
    unfilled: Slice,
    unfilled_percent: f64,
    filled_percent: f64,
    slices: Vec<Slice>,
    throughput_ratio: f64,
    slowest_ratio: f64,
    evictions: Option<u64>,
    refused: u64,
    promises: u64,
    lease_violations: u64,
    older_results: u64,
    dangling_results: u64,
    #[serde(skip)]
    first_error: Option<String>,
}

#[derive(Serialize)]
struct Slice {
    seconds: f64,
    builds: u64,
    bytes: u64,
    bytes_per_second: f64,
}

/// Measures builds on the store as it is, fills it, and measures them again.
pub(super) async fn run(
    place: &Place,
    args: &Args,
    percent: u64,
    duration: Duration,
    progress: &Progress,
) -> Result<Endurance> {
    let ports = place.open()?;
    let function = args.load.digest_function;
    let mints = || Sizes::new(|size| Mint::new(function, size, args.load.content));
    let builds =
        Arc::new(Builds { sizes: mints(), function, tally: Tally::default(), earlier: Mutex::default() });
    let clients = [ports.clone()];
    let bar = progress.begin("endurance", duration * 2);
    let slice = async |duration| {
        let plan = Drive { clients: &clients, workers: args.load.concurrency.into(), duration, server: None };
        drive(plan, builds.clone(), &bar).await
    };
    bar.running();
    let unfilled = slice(duration / 4).await?;
    let share = |bytes: u64| bytes as f64 * 100.0 / place.max_size as f64;
    let unfilled_percent = share(builds.tally.written.load(Relaxed));
    fill(&ports, &mints(), place.max_size * percent / 100, &builds.tally).await?;
    let filled_percent = share(builds.tally.written.load(Relaxed));
    let mut slices = Vec::new();
    for _ in 0..SLICES {
        slices.push(slice(duration / SLICES).await?);
    }
    bar.done(&slices);
    let percents = (unfilled_percent, filled_percent);
    Ok(Endurance::of(&unfilled, slices, percents, &builds.tally, ports.evictions()))
}

/// Writes blobs with the sizes of a build's until so many bytes were written in all.
async fn fill(ports: &Ports, sizes: &Sizes, bytes: u64, tally: &Tally) -> Result<()> {
    let mut random = Random::new();
    let blobs = std::iter::from_fn(|| {
        let blob = sizes.draw(&mut random).blob(&mut random);
        let before = tally.written.fetch_add(blob.digest.size(), Relaxed);
        (before < bytes).then_some(blob)
    });
    let writes = blobs.map(|blob| async move {
        let (digest, bytes) = (blob.digest, blob.into_bytes());
        loop {
            match ports.blobs.write_bytes(&Context::internal(), digest, bytes.clone()).await {
                // The builds before have left it no room; that comes back when they have ended.
                Err(error) if error.retry_after().is_some() => tokio::time::sleep(REST).await,
                written => return written,
            }
        }
    });
    stream::iter(writes).buffer_unordered(WRITERS).try_collect::<()>().await?;
    Ok(())
}

/// What all builds found together.
#[derive(Default)]
struct Tally {
    written: AtomicU64,
    refused: AtomicU64,
    promises: AtomicU64,
    violations: AtomicU64,
    older: AtomicU64,
    dangling: AtomicU64,
}

/// One build after the other: each an invocation of its own, which relies on what it was told until it ends.
struct Builds {
    sizes: Sizes,
    function: DigestFunction,
    tally: Tally,
    earlier: Mutex<Vec<(ActionKey, Vec<Digest>)>>,
}

#[async_trait::async_trait]
impl Load<Ports> for Builds {
    async fn call(&self, worker: &mut Worker<Ports>) -> Result<Done, Failure> {
        let tool_invocation_id = uuid::Uuid::new_v4().to_string();
        let request = Arc::new(RequestMetadata { tool_invocation_id, ..RequestMetadata::default() });
        let context = Context { request, ..Context::internal() };
        let (mut promised, mut bytes) = (Vec::new(), 0);
        for _ in 0..BUILD.0 {
            match self.action(&context, worker, &mut promised).await {
                Ok(written) => bytes += written,
                // No room at present: the build goes on with what it has.
                Err(error) if error.retry_after().is_some() => {
                    self.tally.refused.fetch_add(1, Relaxed);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        bytes += self.check(&context, &worker.client, &promised).await?;
        self.ask_for_earlier(worker, promised).await?;
        Ok(Done { items: 1, bytes })
    }
}

impl Builds {
    /// Uploads inputs and outputs of an action and its result. What the build relies on from now on is added to `promised`.
    async fn action(
        &self,
        context: &Context,
        worker: &mut Worker<Ports>,
        promised: &mut Vec<(ActionKey, Vec<Digest>)>,
    ) -> Result<u64, Error> {
        let blobs: Vec<_> = (0..BUILD.1 + BUILD.2)
            .map(|_| self.sizes.draw(&mut worker.random).blob(&mut worker.random))
            .collect();
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let asked: DigestSet = digests.iter().copied().collect();
        let (ports, mut bytes) = (&worker.client, 0);
        let missing = ports.blobs.find_missing(context, &asked).await?;
        for blob in blobs.into_iter().filter(|blob| missing.contains(&blob.digest)) {
            let (digest, content) = (blob.digest, blob.into_bytes());
            ports.blobs.write_bytes(context, digest, content).await?;
            bytes += digest.size();
            self.tally.written.fetch_add(digest.size(), Relaxed);
        }
        let key: ActionKey = worker.random.digest(self.function).into();
        if let Some(actions) = &ports.actions {
            actions.put(context, key, result_of(&digests[BUILD.1..])).await?;
        }
        self.tally.promises.fetch_add(1 + digests.len() as u64, Relaxed);
        promised.push((key, digests));
        Ok(bytes)
    }

    /// At the end of a build: everything that it was promised must be there, and be readable.
    async fn check(
        &self,
        context: &Context,
        ports: &Ports,
        promised: &[(ActionKey, Vec<Digest>)],
    ) -> Result<u64, Error> {
        let mut bytes = 0;
        for (key, digests) in promised {
            let asked: DigestSet = digests.iter().copied().collect();
            let mut lost = ports.blobs.find_missing(context, &asked).await?.len() as u64;
            if let Some(actions) = &ports.actions {
                lost += u64::from(actions.get(context, *key).await?.is_none());
            }
            match read(ports, digests[0]).await {
                Ok(length) => bytes += length,
                // It is counted above already.
                Err(error) if error.is_not_found() && lost > 0 => {}
                Err(error) if error.is_not_found() => lost += 1,
                Err(error) => return Err(error),
            }
            self.tally.violations.fetch_add(lost, Relaxed);
        }
        Ok(bytes)
    }

    /// Asks for a result of an earlier build. It may be gone, but not in part.
    async fn ask_for_earlier(
        &self,
        worker: &mut Worker<Ports>,
        promised: Vec<(ActionKey, Vec<Digest>)>,
    ) -> Result<(), Error> {
        let (key, _) = {
            let mut earlier = self.earlier.lock();
            earlier.extend(promised);
            let surplus = earlier.len().saturating_sub(REMEMBERED);
            earlier.drain(..surplus);
            match earlier.len() {
                0 => return Ok(()),
                length => earlier[worker.random.below(length)].clone(),
            }
        };
        let ports = &worker.client;
        let Some(actions) = &ports.actions else { return Ok(()) };
        let Some(result) = actions.get(&Context::internal(), key).await? else { return Ok(()) };
        self.tally.older.fetch_add(1, Relaxed);
        let glance = Context { promise: Promise::Glance, ..Context::internal() };
        let missing = ports.blobs.find_missing(&glance, &result.named_blobs()).await?;
        self.tally.dangling.fetch_add(u64::from(!missing.is_empty()), Relaxed);
        Ok(())
    }
}

impl Slice {
    fn of(measured: &Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let bytes_per_second = measured.bytes as f64 / seconds.max(f64::EPSILON);
        Self { seconds, builds: measured.calls, bytes: measured.bytes, bytes_per_second }
    }
}

impl Endurance {
    fn of(
        unfilled: &Measured,
        slices: Vec<Measured>,
        (unfilled_percent, filled_percent): (f64, f64),
        tally: &Tally,
        evictions: Option<u64>,
    ) -> Self {
        let (unfilled, failed) = (Slice::of(unfilled), unfilled.first_error.clone());
        let each: Vec<Slice> = slices.iter().map(Slice::of).collect();
        let ratio = |slice: &Slice| slice.bytes_per_second / unfilled.bytes_per_second.max(f64::EPSILON);
        let slowest_ratio = each.iter().map(ratio).fold(f64::INFINITY, f64::min);
        let all = Measured::of_rounds(slices);
        Self {
            throughput_ratio: ratio(&Slice::of(&all)),
            slowest_ratio,
            unfilled,
            unfilled_percent,
            filled_percent,
            slices: each,
            evictions,
            refused: tally.refused.load(Relaxed),
            promises: tally.promises.load(Relaxed),
            lease_violations: tally.violations.load(Relaxed),
            older_results: tally.older.load(Relaxed),
            dangling_results: tally.dangling.load(Relaxed),
            first_error: failed.or(all.first_error),
        }
    }

    /// What must not have been, in words.
    pub(super) fn broken(&self) -> Option<String> {
        if let Some(error) = &self.first_error {
            return Some(format!("a build failed: {error}"));
        }
        let (leases, dangling) = (self.lease_violations, self.dangling_results);
        (leases + dangling > 0).then(|| {
            format!("the store broke its promises: {leases} lease violations, {dangling} dangling results")
        })
    }

    pub(super) fn lines(&self) -> String {
        let mega = |slice: &Slice| format!("{:.1}", slice.bytes_per_second / 1e6);
        let mut text = String::new();
        let _ = writeln!(
            text,
            "unfilled ({:.0} %): {} MB/s; after {:.0} % was written: {} MB/s, in all {:.2} of that, {:.2} at the slowest",
            self.unfilled_percent,
            mega(&self.unfilled),
            self.filled_percent,
            self.slices.iter().map(mega).collect::<Vec<_>>().join(" "),
            self.throughput_ratio,
            self.slowest_ratio
        );
        let evictions = self.evictions.map_or("none".into(), |evictions| evictions.to_string());
        let _ = writeln!(
            text,
            "{} promises, {} lease violations; {} older results, {} dangling; {} builds refused, evictions: {evictions}",
            self.promises, self.lease_violations, self.older_results, self.dangling_results, self.refused
        );
        text
    }
}
