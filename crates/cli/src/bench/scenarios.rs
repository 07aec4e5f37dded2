//! The list of scenarios: name, what it needs, how its calls are prepared.

use super::{
    actions, blobs,
    load::{Drive, Load, Measured, drive},
    mix,
    progress::{Bar, Progress},
    target::Target,
};
use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// At most as many large blobs are under way.
pub(super) const LARGE_CONCURRENCY: usize = 4;
/// How long it may take to write what a scenario needs.
const PREPARATION: Duration = Duration::from_secs(120);

type Preparing<'a> = BoxFuture<'a, Result<Arc<dyn Load>>>;

/// One kind of load.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// What one item is.
    pub(super) item: &'static str,
    needs: Needs,
    prepare: fn(&Target) -> Preparing<'_>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Cache,
    LargeBlobs,
    Execution,
}

/// What became of a scenario.
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) item: &'static str,
    pub(super) concurrency: usize,
    /// The figures of each round, first of the server, then of the one that it is compared with; or why there are none.
    pub(super) measured: Result<Vec<Vec<Measured>>, &'static str>,
}

macro_rules! scenarios {
    ($($name:literal, $item:literal, $needs:ident, $prepare:expr;)*) => {
        const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            item: $item,
            needs: Needs::$needs,
            prepare: |target| Box::pin($prepare(target)),
        }),*];
    };
}

scenarios! {
    "find-missing-1", "digests", Cache, |target| blobs::find_missing(target, 1);
    "find-missing-100", "digests", Cache, |target| blobs::find_missing(target, 100);
    "find-missing-1000", "digests", Cache, |target| blobs::find_missing(target, 1000);
    "batch-write", "blobs", Cache, blobs::batch_write;
    "batch-read", "blobs", Cache, blobs::batch_read;
    "stream-write-small", "blobs", Cache, blobs::write_small;
    "stream-read-small", "blobs", Cache, blobs::read_small;
    "stream-read-new", "blobs", Cache, blobs::read_new;
    "stream-write-large", "blobs", LargeBlobs, blobs::write_large;
    "stream-read-large", "blobs", LargeBlobs, blobs::read_large;
    "action-put", "results", Cache, actions::put;
    "action-get", "results", Cache, actions::get;
    "action-get-new", "results", Cache, actions::get_new;
    "action-get-missing", "results", Cache, actions::get_missing;
    "mix", "calls", Cache, mix::mix;
    "execute", "actions", Execution, actions::execute;
}

/// The scenarios that are asked for, in their own order; all if none is.
pub(super) fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    let chosen = chosen(&known, names)?;
    Ok(SCENARIOS.iter().filter(|scenario| chosen.contains(&scenario.name)).collect())
}

/// Those of the known names that are asked for by name or beginning.
pub(super) fn chosen(known: &[&'static str], names: &[String]) -> Result<Vec<&'static str>> {
    let means = |name: &str, scenario: &str| {
        scenario.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for name in names {
        if !known.iter().any(|scenario| means(name, scenario)) {
            bail!("there is no scenario `{name}`; expected one of {}", known.join(", "));
        }
    }
    let asked = |scenario: &&'static str| names.is_empty() || names.iter().any(|name| means(name, scenario));
    Ok(known.iter().copied().filter(asked).collect())
}

/// Prepares a scenario on every target and runs it there, in turn where there is more than one.
pub(super) async fn measure(
    scenario: &'static Scenario,
    targets: &[Target],
    progress: &Progress,
) -> Result<Outcome> {
    let settings = &targets[0].settings;
    let workers = match scenario.needs {
        Needs::LargeBlobs => settings.concurrency.min(LARGE_CONCURRENCY),
        Needs::Cache | Needs::Execution => settings.concurrency,
    };
    let outcome =
        |measured| Outcome { name: scenario.name, item: scenario.item, concurrency: workers, measured };
    if scenario.needs == Needs::Execution && !targets.iter().all(|target| target.executes) {
        progress.skipped(scenario.name, "the server has no execution");
        return Ok(outcome(Err("the server has no execution")));
    }
    let rounds = if targets.len() == 1 { 1 } else { settings.rounds };
    let bar = progress.begin(scenario.name, settings.duration * (rounds * targets.len()) as u32);
    let mut loads = Vec::with_capacity(targets.len());
    for target in targets {
        loads.push(prepare(scenario, target).await.with_context(|| format!("at `{}`", target.settings.url))?);
    }
    bar.running();
    let mut measured: Vec<Vec<Measured>> = targets.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((target, load), rounds) in targets.iter().zip(&loads).zip(&mut measured) {
            rounds.push(run(target, workers, load.clone(), &bar).await?);
        }
    }
    bar.done(&measured[0]);
    Ok(outcome(Ok(measured)))
}

async fn prepare(scenario: &Scenario, target: &Target) -> Result<Arc<dyn Load>> {
    let prepared = tokio::time::timeout(PREPARATION, (scenario.prepare)(target)).await;
    prepared.with_context(|| format!("preparing took more than {} s", PREPARATION.as_secs()))?
}

async fn run(target: &Target, workers: usize, load: Arc<dyn Load>, bar: &Bar<'_>) -> Result<Measured> {
    let plan = Drive {
        clients: &target.clients,
        workers,
        duration: target.settings.duration,
        server: target.settings.server_pid,
    };
    drive(plan, load, bar).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_chosen_by_name_or_beginning() {
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            choose(&names).map(|chosen| chosen.iter().map(|scenario| scenario.name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).unwrap().len(), SCENARIOS.len());
        assert_eq!(chosen(&["execute", "find-missing-1"]).unwrap(), ["find-missing-1", "execute"]);
        assert_eq!(chosen(&["stream-write"]).unwrap(), ["stream-write-small", "stream-write-large"]);
        assert_eq!(chosen(&["find-missing"]).unwrap().len(), 3);
        for unknown in ["find-missing-2", "str", ""] {
            assert!(chosen(&[unknown]).unwrap_err().to_string().contains("expected one of"), "{unknown}");
        }
    }
}
