//! What is printed in the end: a table for people, or JSON.

use super::{Settings, load::Measured, scenarios::Outcome};
use anyhow::Result;
use serde::Serialize;
use std::{fmt::Write, time::Duration};

/// What the JSON means, as part of the help.
pub(super) const FIELDS: &str = "\
The JSON document: `mortar` (version of this client), `url`, `cores` (of this machine), `instance`, `digest_function`, \
`connections`, `large_size` (bytes), `duration_seconds`, and `scenarios`: for each `name`, `item` (what is counted as \
items), `concurrency`, `skipped` (why, or null) and, unless skipped, `seconds`, `calls`, `items`, `bytes` (of content), \
`errors`, `first_error`, `calls_per_second`, `items_per_second`, `bytes_per_second`, `latency_ms` (of one call: `p50`, \
`p90`, `p99`, `max`) and `client_cpu_seconds` (processor time of this client).

Reads count what arrives and do not hash it. Blobs are random and new, but those of one size share all but their last \
64 bytes: a server that stores chunks of blobs once has less to write.";

#[derive(Serialize)]
pub(super) struct Report {
    mortar: &'static str,
    url: String,
    cores: usize,
    instance: String,
    digest_function: &'static str,
    connections: usize,
    large_size: usize,
    duration_seconds: f64,
    scenarios: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    item: &'static str,
    concurrency: usize,
    skipped: Option<&'static str>,
    #[serde(flatten)]
    figures: Option<Figures>,
}

#[derive(Serialize)]
struct Figures {
    seconds: f64,
    calls: u64,
    items: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
    calls_per_second: f64,
    items_per_second: f64,
    bytes_per_second: f64,
    latency_ms: Latency,
    client_cpu_seconds: Option<f64>,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Report {
    pub(super) fn new(settings: &Settings, outcomes: Vec<Outcome>) -> Self {
        let row = |outcome: Outcome| {
            let (skipped, figures) = match outcome.measured {
                Ok(measured) => (None, Some(Figures::of(&measured))),
                Err(why) => (Some(why), None),
            };
            Row { name: outcome.name, item: outcome.item, concurrency: outcome.concurrency, skipped, figures }
        };
        Self {
            mortar: env!("CARGO_PKG_VERSION"),
            url: settings.url.clone(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            instance: settings.instance.to_string(),
            digest_function: settings.function.name(),
            connections: settings.connections,
            large_size: settings.large_size,
            duration_seconds: settings.duration.as_secs_f64(),
            scenarios: outcomes.into_iter().map(row).collect(),
        }
    }

    /// One document and a line's end.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The first scenario with failed calls: its name, their number, and what the first one said.
    pub(super) fn first_error(&self) -> Option<(&'static str, u64, &str)> {
        self.scenarios.iter().find_map(|row| {
            let figures = row.figures.as_ref()?;
            Some((row.name, figures.errors, figures.first_error.as_deref()?))
        })
    }

    /// Aligned columns, with the circumstances above.
    pub(super) fn table(&self) -> String {
        let (version, url, cores, seconds) = (self.mortar, &self.url, self.cores, self.duration_seconds);
        let mut text = format!(
            "mortar {version} bench of {url}: {cores} cores, {}, {} connections, {seconds} s a scenario\n\n",
            self.digest_function, self.connections
        );
        let heads = [
            "scenario", "at once", "calls/s", "items/s", "MB/s", "p50 ms", "p90 ms", "p99 ms", "max ms",
            "errors",
        ];
        line(&mut text, heads.map(str::to_owned));
        for row in &self.scenarios {
            match (&row.figures, row.skipped) {
                (Some(figures), _) => line(&mut text, figures.cells(row)),
                (None, why) => {
                    let _ = writeln!(text, "{:<20}skipped: {}", row.name, why.unwrap_or_default());
                }
            }
        }
        text
    }
}

fn line(text: &mut String, [name, cells @ ..]: [String; 10]) {
    let _ = write!(text, "{name:<20}");
    for cell in cells {
        let _ = write!(text, "{cell:>10}");
    }
    text.push('\n');
}

impl Figures {
    fn of(measured: &Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let per_second = |count: u64| count as f64 / seconds.max(f64::EPSILON);
        let percentile = |share| millis(measured.percentile(share));
        Self {
            seconds,
            calls: measured.calls,
            items: measured.items,
            bytes: measured.bytes,
            errors: measured.errors,
            first_error: measured.first_error.clone(),
            calls_per_second: per_second(measured.calls),
            items_per_second: per_second(measured.items),
            bytes_per_second: per_second(measured.bytes),
            latency_ms: Latency {
                p50: percentile(0.5),
                p90: percentile(0.9),
                p99: percentile(0.99),
                max: percentile(1.0),
            },
            client_cpu_seconds: measured.client_cpu.map(|time| time.as_secs_f64()),
        }
    }

    fn cells(&self, row: &Row) -> [String; 10] {
        let megabytes = match self.bytes {
            0 => "-".into(),
            _ => format!("{:.1}", self.bytes_per_second / 1e6),
        };
        let millis = |value: f64| format!("{value:.2}");
        [
            row.name.to_owned(),
            row.concurrency.to_string(),
            rate(self.calls_per_second),
            rate(self.items_per_second),
            megabytes,
            millis(self.latency_ms.p50),
            millis(self.latency_ms.p90),
            millis(self.latency_ms.p99),
            millis(self.latency_ms.max),
            self.errors.to_string(),
        ]
    }
}

fn rate(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
