//! The list of scenarios: name, what it needs, how its calls are prepared.

use super::{
    actions, blobs,
    load::{Load, Measured, drive},
    progress::Progress,
    target::Target,
};
use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// At most as many large blobs are under way.
const LARGE_CONCURRENCY: usize = 4;
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
    /// The figures, or why there are none.
    pub(super) measured: Result<Measured, &'static str>,
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
    "stream-write-large", "blobs", LargeBlobs, blobs::write_large;
    "stream-read-large", "blobs", LargeBlobs, blobs::read_large;
    "action-put", "results", Cache, actions::put;
    "action-get", "results", Cache, actions::get;
    "execute", "actions", Execution, actions::execute;
}

/// The scenarios that are asked for, in their own order; all if none is.
pub(super) fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let means = |name: &str, scenario: &Scenario| {
        scenario.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for name in names {
        if !SCENARIOS.iter().any(|scenario| means(name, scenario)) {
            let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("there is no scenario `{name}`; expected one of {}", known.join(", "));
        }
    }
    let chosen = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| means(name, scenario));
    Ok(SCENARIOS.iter().filter(chosen).collect())
}

/// Prepares a scenario and runs it.
pub(super) async fn measure(
    scenario: &'static Scenario,
    target: &Target,
    progress: &Progress,
) -> Result<Outcome> {
    let concurrency = match scenario.needs {
        Needs::LargeBlobs => target.settings.concurrency.min(LARGE_CONCURRENCY),
        Needs::Cache | Needs::Execution => target.settings.concurrency,
    };
    let outcome = |measured| Outcome { name: scenario.name, item: scenario.item, concurrency, measured };
    if scenario.needs == Needs::Execution && !target.executes {
        progress.skipped(scenario.name, "the server has no execution");
        return Ok(outcome(Err("the server has no execution")));
    }
    let bar = progress.begin(scenario.name, target.settings.duration);
    let prepared = tokio::time::timeout(PREPARATION, (scenario.prepare)(target)).await;
    let load =
        prepared.with_context(|| format!("preparing took more than {} s", PREPARATION.as_secs()))??;
    bar.running();
    let measured = drive(target, concurrency, load, &bar).await?;
    bar.done(&measured);
    Ok(outcome(Ok(measured)))
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
