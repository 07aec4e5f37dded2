//! The page that a browser finds at `/`: what this server is, what it holds and what it does.

use crate::{
    bazelrc,
    inputs::Arrivals,
    rewind::{RewindStats, Rewinder},
};
use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{Html, IntoResponse},
    routing::get,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use mortar_scheduler::{Scheduler, Standing, Status};
use mortar_services::{OperationSummary, Operations, Traffic};
use mortar_store::{Completeness, DiskStore, StoreStats};
use std::{sync::Arc, time::Duration};

/// What the page tells of.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) url: Arc<str>,
    pub(crate) store: Arc<DiskStore>,
    pub(crate) scheduler: Scheduler,
    pub(crate) completeness: Arc<Completeness>,
    pub(crate) rewinder: Rewinder,
    pub(crate) arrivals: Arrivals,
    pub(crate) operations: Operations,
    pub(crate) traffic: Traffic,
}

/// `/` for people, `/status.json` for programs.
pub(crate) fn router(page: Page) -> Router {
    Router::new().route("/", get(show)).route("/status.json", get(figures)).with_state(page)
}

/// The figures of the page: bytes, counts since the start.
async fn figures(State(page): State<Page>) -> impl IntoResponse {
    let (status, stats) = (page.scheduler.status().await, page.store.stats());
    let (results, rewinds) = (page.completeness.stats(), page.rewinder.stats());
    let figures = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "storage": {
            "bytes": stats.bytes, "max_size": stats.max_size, "blobs": stats.blobs, "action_results": stats.results,
            "evictions": stats.evictions, "shed": stats.shed, "quarantined": stats.quarantined, "lost": stats.lost,
            "lease_violations": stats.lease_violations, "refused": stats.refused,
            "invocations": stats.invocations, "counted": stats.walked,
        },
        "results": {
            "served": results.served, "incomplete": results.incomplete, "removed": results.removed,
            "not_kept": results.not_kept,
        },
        "rewinding": {
            "attempted": rewinds.attempted, "made": rewinds.made, "failed": rewinds.failed,
            "too_deep": rewinds.too_deep,
        },
        "traffic": { "received_bytes": page.traffic.received(), "sent_bytes": page.traffic.sent() },
        "executions": {
            "workers": status.workers.len(), "queued": status.queued, "running": status.running.len(),
            "executed": status.counters.executed,
            "persistent": status.counters.persistent, "merged": status.counters.merged,
            "retried": status.counters.retried, "cancelled": status.counters.cancelled,
            "failed": status.counters.failed,
        },
    });
    ([(CONTENT_TYPE, "application/json")], figures.to_string())
}

async fn show(State(page): State<Page>) -> Html<String> {
    let status = page.scheduler.status().await;
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="5";
                title { "Mortar" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { "Mortar" } span { "version " (env!("CARGO_PKG_VERSION")) } }
                (connect(&page.url, &page.traffic))
                (storage(&page.store.stats()))
                (workers(&status))
                (queue(&status, &page.operations.running()))
                (lost(&page.rewinder.stats()))
            }
        }
    };
    Html(body.into_string())
}

fn connect(url: &str, traffic: &Traffic) -> Markup {
    html! {
        section {
            h2 { "Connect" }
            pre { (bazelrc::lines(url)) }
            dl {
                dt { "gRPC (REAPI v2, ByteStream)" } dd { code { (url) } }
                dt { "HTTP cache" } dd { code { (http_url(url)) } }
                dt { "Received, sent since the start" } dd { (size(traffic.received())) ", " (size(traffic.sent())) }
            }
        }
    }
}

fn http_url(url: &str) -> String {
    url.strip_prefix("grpc://").map_or_else(|| url.to_owned(), |rest| format!("http://{rest}"))
}

fn storage(stats: &StoreStats) -> Markup {
    html! {
        section {
            h2 { "Storage" }
            meter min="0" max="1" value=(share(stats.bytes, stats.max_size)) {}
            p {
                (size(stats.bytes)) " of " (size(stats.max_size))
                @if !stats.walked { " (still counting what was there before the start)" }
            }
            dl {
                dt { "Blobs" } dd { (stats.blobs) }
                dt { "Action results" } dd { (stats.results) }
                dt { "Evicted since the start" } dd { (stats.evictions) }
                dt { "Of those, still leased" } dd { (stats.shed) }
                dt { "Found damaged, gone since the start" } dd { (stats.quarantined) ", " (stats.lost) }
                dt { "Writes refused for want of room" } dd { (stats.refused) }
                dt { "Running invocations that count on it" } dd { (stats.invocations) }
                dt { "Promises to them that were broken" } dd { (stats.lease_violations) }
            }
        }
    }
}

fn workers(status: &Status) -> Markup {
    html! {
        section {
            h2 { "Workers" }
            @if status.workers.is_empty() {
                p { "None is connected: actions wait. Start one with " code { "mortar worker --server URL" } "." }
            } @else {
                table {
                    thead { tr { th { "Name" } th { "Busy" } th { "Platform" } th { "Connected for" } th { "State" } } }
                    tbody {
                        @for worker in &status.workers {
                            tr {
                                td { (worker.name) }
                                td { (worker.busy) " of " (worker.slots) }
                                td { @for property in &worker.platform.properties { code { (property.name) "=" (property.value) } " " } }
                                td { (duration(worker.connected_for)) }
                                td { (standing(worker.standing)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Serving => "serving",
        Standing::Paused => "paused",
        Standing::Draining => "draining",
        Standing::Away => "its connection is interrupted",
    }
}

fn queue(status: &Status, operations: &[OperationSummary]) -> Markup {
    html! {
        section {
            h2 { "Executions" }
            dl {
                dt { "Open operations" } dd { (operations.len()) }
                dt { "Waiting for a worker" }
                dd { (status.queued) @if let Some(wait) = status.oldest_wait { ", the oldest for " (duration(wait)) } }
                dt { "Executed since the start" } dd { (status.counters.executed) }
                dt { "Joined one in flight" } dd { (status.counters.merged) }
                dt { "Tried again" } dd { (status.counters.retried) }
                dt { "Failed" } dd { (status.counters.failed) }
            }
            @if !status.waiting.is_empty() {
                table {
                    thead { tr { th { "Waiting" } th { "Platform" } th { "For" } th { "Why" } } }
                    tbody {
                        @for group in &status.waiting {
                            tr {
                                td { (group.queued) }
                                td { @for property in &group.platform.properties { code { (property.name) "=" (property.value) } " " } }
                                td { (duration(group.oldest_wait)) }
                                td { (group.reason) }
                            }
                        }
                    }
                }
            }
            @if !status.running.is_empty() {
                table {
                    thead { tr { th { "Running" } th { "Target" } th { "Worker" } th { "For" } } }
                    tbody {
                        @for action in &status.running {
                            tr {
                                td { (if action.mnemonic.is_empty() { "action" } else { &action.mnemonic }) }
                                td { (action.target) }
                                td { (action.worker) }
                                td { (duration(action.running_for)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn lost(rewinds: &RewindStats) -> Markup {
    html! {
        section {
            h2 { "Lost blobs" }
            dl {
                dt { "Actions run again for them" } dd { (rewinds.attempted) }
                dt { "Made again" } dd { (rewinds.made) }
                dt { "Not made again" } dd { (rewinds.failed) }
            }
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

const STYLE: &str = "\
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
header { display: flex; align-items: baseline; gap: 1rem; }
h1 { margin: 0; } h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
pre { background: color-mix(in srgb, currentColor 7%, transparent); padding: .75rem 1rem; overflow-x: auto; }
pre, code { font: 14px/1.5 ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.5rem; margin: .5rem 0; } dt { opacity: .7; } dd { margin: 0; }
meter { width: 100%; height: 1rem; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_for_people() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 40), "3.0 TiB");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(3_700)), "1 h 1 min");
    }
}
