//! `/metrics`: the figures of the status page for Prometheus. They are read when they are asked for; nothing is counted twice.
//! What they mean is said by [`StoreStats`], [`Counters`] and [`RewindStats`], whose fields they are.

use crate::{rewind::RewindStats, status_page::Page};
use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use mortar_scheduler::{Counters, Status};
use mortar_store::{CompletenessStats, StoreStats};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn router(page: Page) -> Router {
    Router::new().route("/metrics", get(show)).with_state(page)
}

async fn show(State(page): State<Page>) -> impl IntoResponse {
    let figures = Figures {
        status: page.scheduler.status().await,
        store: page.store.stats(),
        results: page.completeness.stats(),
        rewinds: page.rewinder.stats(),
        awaiting_inputs: page.arrivals.waiters(),
        traffic: [page.traffic.received(), page.traffic.sent()],
    };
    let mut registry = Registry::with_prefix("mortar");
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a string takes all that is written to it");
    ([(CONTENT_TYPE, FORMAT)], text)
}

/// All figures of one moment.
#[derive(Debug)]
struct Figures {
    status: Status,
    store: StoreStats,
    results: CompletenessStats,
    rewinds: RewindStats,
    awaiting_inputs: u64,
    traffic: [u64; 2],
}

/// Name, explanation, value.
type Row = (&'static str, &'static str, u64);

impl Figures {
    /// What goes up and down.
    fn levels(&self) -> Vec<Row> {
        let (store, status) = (&self.store, &self.status);
        let slots = |of: fn(&mortar_scheduler::WorkerStatus) -> u32| {
            status.workers.iter().map(|worker| u64::from(of(worker))).sum()
        };
        vec![
            ("store_bytes", "What the store takes on disk", store.bytes),
            ("store_max_bytes", "What the store may take on disk", store.max_size),
            ("store_blobs", "Blobs in the store", store.blobs),
            ("store_action_results", "Action results in the store", store.results),
            ("store_values", "Opaque values of HTTP clients in the store", store.values),
            ("store_uploads", "Uploads begun and not ended", store.uploads),
            ("store_invocations", "Invocations that count on what they were promised", store.invocations),
            ("workers", "Workers that are connected", status.workers.len() as u64),
            ("worker_slots", "Actions that they can run at the same time", slots(|worker| worker.slots)),
            ("worker_slots_busy", "Actions that they run", slots(|worker| worker.busy)),
            ("actions_awaiting_inputs", "Actions whose inputs are on their way", self.awaiting_inputs),
            ("actions_queued", "Actions that wait for a worker", status.queued as u64),
            ("actions_running", "Actions that run", status.running.len() as u64),
        ]
    }

    /// What only goes up, since the start.
    fn counts(&self) -> Vec<Row> {
        let (store, results, rewinds) = (&self.store, &self.results, &self.rewinds);
        let Counters { executed, persistent, merged, retried, cancelled, failed, .. } = self.status.counters;
        vec![
            ("lease_violations", "Things lost on which a running invocation counted", store.lease_violations),
            ("store_evictions", "Things evicted", store.evictions),
            ("store_shed", "Things evicted before their soft lease had ended", store.shed),
            ("store_refused_writes", "Writes refused for want of room", store.refused),
            ("store_quarantined", "Things found damaged and put aside", store.quarantined),
            ("store_lost", "Files found to be removed behind the store's back", store.lost),
            ("results_served", "Action results served", results.served),
            ("results_incomplete", "Action results not served since a blob was missing", results.incomplete),
            ("rewinds_attempted", "Actions run again for what was lost", rewinds.attempted),
            ("rewinds_made", "Of those, actions that made it again", rewinds.made),
            ("rewinds_failed", "Of those, actions that did not", rewinds.failed),
            ("actions_executed", "Actions executed", executed),
            ("actions_persistent", "Of those, actions that a persistent worker executed", persistent),
            ("actions_merged", "Actions that joined one in flight", merged),
            ("actions_retried", "Attempts after a worker was lost or failed", retried),
            ("actions_cancelled", "Actions that nobody waited for any more", cancelled),
            ("actions_failed", "Actions that could not be executed", failed),
            ("received_bytes", "Bytes received on the port", self.traffic[0]),
            ("sent_bytes", "Bytes sent on the port", self.traffic[1]),
        ]
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for (name, help, value) in self.levels() {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in self.counts() {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
