//! The scenarios of a store: those of a server, as far as a store without a network has them, by the same names.

use super::{
    super::{
        content::Mint,
        load::{Drive, Load, drive},
        mix::Sizes,
        progress::Progress,
        rows::Row,
        scenarios::{LARGE_CONCURRENCY, chosen},
    },
    Args,
    engine::{Place, Ports},
    loads::{BatchWrite, Cold, FindMissing, GetResult, Mix, PutResult, Read, Write, keep, result_of},
    report::Report,
};
use anyhow::{Context, Result};
use std::sync::{Arc, atomic::AtomicUsize};

/// The size of a blob that is read or written with others, and how many at once.
const BATCHED: (usize, usize) = (4 << 10, 100);
/// The size of a small blob that is a stream.
const SMALL: usize = 64 << 10;
/// Batches, small blobs and large blobs that are kept to be read.
const KEPT: (usize, usize, usize) = (16, 64, 2);

/// Name, what is counted, and whether blobs are large.
const SCENARIOS: [(&str, &str, bool); 12] = [
    ("find-missing-1", "digests", false),
    ("find-missing-100", "digests", false),
    ("find-missing-1000", "digests", false),
    ("batch-write", "blobs", false),
    ("batch-read", "blobs", false),
    ("stream-write-small", "blobs", false),
    ("stream-read-small", "blobs", false),
    ("stream-write-large", "blobs", true),
    ("stream-read-large", "blobs", true),
    ("action-put", "results", false),
    ("action-get", "results", false),
    ("mix", "calls", false),
];

/// The scenarios that are asked for; all if none is, unless the store is filled, which is measured for itself.
pub(super) fn choose(names: &[String], filled: bool) -> Result<Vec<&'static str>> {
    if filled && names.is_empty() {
        return Ok(Vec::new());
    }
    chosen(&SCENARIOS.map(|(name, ..)| name), names)
}

/// Runs them, a row each.
pub(super) async fn run(
    names: &[&'static str],
    place: &Place,
    args: &Args,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let ports = place.open()?;
    let duration = args.load.duration()?;
    for (name, item, large) in SCENARIOS.into_iter().filter(|(name, ..)| names.contains(name)) {
        let bar = progress.begin(name, duration);
        let prepared = prepare(name, &ports, place, args).await;
        let Some(load) = prepared.with_context(|| format!("scenario `{name}`"))? else {
            progress.skipped(name, "the store has no action cache");
            continue;
        };
        let most = if large { LARGE_CONCURRENCY } else { usize::MAX };
        let workers = usize::from(args.load.concurrency).min(most);
        bar.running();
        let plan = Drive { clients: std::slice::from_ref(&ports), workers, duration, server: None };
        let measured = drive(plan, load, &bar).await.with_context(|| format!("scenario `{name}`"))?;
        bar.done(std::slice::from_ref(&measured));
        report.scenarios.push(Row::of_store((name, item), workers, &measured, report.machine.as_ref()));
    }
    Ok(())
}

/// The load of a scenario; none if the store does not have what it needs.
async fn prepare(
    name: &str,
    ports: &Ports,
    place: &Place,
    args: &Args,
) -> Result<Option<Arc<dyn Load<Ports>>>> {
    let (function, large) = (args.load.digest_function, args.load.large_size()?);
    let mint = |size| Mint::new(function, size, args.load.content);
    let read = |kept, at_once| -> Arc<dyn Load<Ports>> {
        let read = Read::of(kept, at_once);
        match args.cold {
            true => {
                Arc::new(Cold { inner: read, directory: place.directory.clone(), calls: AtomicUsize::new(0) })
            }
            false => Arc::new(read),
        }
    };
    if let Some(count) = name.strip_prefix("find-missing-") {
        let (present, count) = (keep(ports, &mint(BATCHED.0), BATCHED.1).await?, count.parse()?);
        return Ok(Some(Arc::new(FindMissing { present, count, function })));
    }
    Ok(Some(match name {
        "batch-write" => Arc::new(BatchWrite { mint: mint(BATCHED.0), count: BATCHED.1 }),
        "batch-read" => read(keep(ports, &mint(BATCHED.0), BATCHED.1 * KEPT.0).await?, BATCHED.1),
        "stream-write-small" => Arc::new(Write(mint(SMALL))),
        "stream-read-small" => read(keep(ports, &mint(SMALL), KEPT.1).await?, 1),
        "stream-write-large" => Arc::new(Write(mint(large))),
        "stream-read-large" => read(keep(ports, &mint(large), KEPT.2).await?, 1),
        _ => return with_results(name, ports, mint).await,
    }))
}

/// The load of a scenario that has to do with action results.
async fn with_results(
    name: &str,
    ports: &Ports,
    mint: impl Fn(usize) -> Mint,
) -> Result<Option<Arc<dyn Load<Ports>>>> {
    let output = keep(ports, &mint(BATCHED.0), 1).await?;
    let function = output[0].function();
    let put = ports.actions.clone();
    let put = put.map(|actions| PutResult { actions, result: result_of(&output), function });
    Ok(match (name, put) {
        ("mix", put) => Some(Arc::new(Mix::prepare(ports, Sizes::new(mint), put).await?)),
        ("action-put", Some(put)) => Some(Arc::new(put)),
        (_, Some(put)) => Some(Arc::new(GetResult::prepare(&put).await?)),
        (_, None) => None,
    })
}
