//! One row for each scenario, the same for servers and for stores: what is in the JSON, and in the table.

use super::{
    load::Measured,
    machine::{Machine, Share},
    scenarios::Outcome,
};
use serde::Serialize;
use std::{fmt::Write, time::Duration};

#[derive(Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    item: &'static str,
    concurrency: usize,
    skipped: Option<&'static str>,
    #[serde(flatten)]
    figures: Option<Figures>,
    share: Option<Share>,
    against: Option<Against>,
}

/// The same scenario on another server.
#[derive(Serialize)]
struct Against {
    figures: Figures,
    ratio: Ratio,
}

/// Items a second of this server over those of the other, of neighbouring rounds.
#[derive(Serialize)]
struct Ratio {
    median: f64,
    min: f64,
    max: f64,
    rounds: Vec<f64>,
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
    server_cpu_seconds: Option<f64>,
    cpu_seconds_per_gb: Option<f64>,
}

#[derive(Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Row {
    /// What was measured of a server, and of the one that it is compared with.
    pub(super) fn of_server(outcome: Outcome, machine: Option<&Machine>) -> Self {
        let Outcome { name, item, concurrency, measured } = outcome;
        let mut targets = match measured {
            Ok(targets) => targets.into_iter(),
            Err(why) => {
                let skipped = Some(why);
                return Self { name, item, concurrency, skipped, figures: None, share: None, against: None };
            }
        };
        let (this, other) = (targets.next().unwrap_or_default(), targets.next());
        let ratio = other.as_deref().map(|other| Ratio::of(&this, other));
        let figures = Figures::of(&Measured::of_rounds(this));
        let other = other.map(|other| Figures::of(&Measured::of_rounds(other)));
        let against = other.zip(ratio).map(|(figures, ratio)| Against { figures, ratio });
        let share = machine.and_then(|machine| figures.share(machine, name, true));
        Self { name, item, concurrency, skipped: None, figures: Some(figures), share, against }
    }

    /// What was measured of a store in this process, whose processor time is this one's.
    pub(super) fn of_store(
        (name, item): (&'static str, &'static str),
        concurrency: usize,
        measured: &Measured,
        machine: Option<&Machine>,
    ) -> Self {
        let mut figures = Figures::of(measured);
        figures.cpu_seconds_per_gb = per_gb(measured.client_cpu, measured.bytes);
        let share = machine.and_then(|machine| figures.share(machine, name, false));
        Self { name, item, concurrency, skipped: None, figures: Some(figures), share, against: None }
    }
}

/// The first scenario with failed calls: its name, their number, and what the first one said.
pub(super) fn first_error(rows: &[Row]) -> Option<(&'static str, u64, &str)> {
    rows.iter().find_map(|row| {
        let other = row.against.as_ref().map(|against| &against.figures);
        let failed = row.figures.iter().chain(other).find(|figures| figures.errors > 0)?;
        Some((row.name, failed.errors, failed.first_error.as_deref()?))
    })
}

impl Ratio {
    fn of(this: &[Measured], other: &[Measured]) -> Self {
        let ratio = |(this, other): (&Measured, &Measured)| this.rate() / other.rate().max(f64::EPSILON);
        let rounds: Vec<f64> = this.iter().zip(other).map(ratio).collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            (at(middle.saturating_sub(1)) + at(middle)) / 2.0
        };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)), rounds }
    }
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
            server_cpu_seconds: measured.server_cpu.map(|time| time.as_secs_f64()),
            cpu_seconds_per_gb: per_gb(measured.server_cpu, measured.bytes),
        }
    }

    fn share(&self, machine: &Machine, name: &str, network: bool) -> Option<Share> {
        machine.share(name, network, self.items_per_second, self.bytes_per_second)
    }
}

/// Processor time for a gigabyte of content; none where hardly any flowed.
fn per_gb(cpu: Option<Duration>, bytes: u64) -> Option<f64> {
    cpu.filter(|_| bytes > 0).map(|cpu| cpu.as_secs_f64() / (bytes as f64 / 1e9))
}

/// Aligned columns. What was not measured in any row has none.
pub(super) fn table(rows: &[Row]) -> String {
    let mut heads = vec![
        "scenario", "at once", "calls/s", "items/s", "MB/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors",
    ];
    let any = |has: fn(&Row) -> bool| rows.iter().any(has);
    let cpu = any(|row| row.figures.as_ref().is_some_and(|figures| figures.cpu_seconds_per_gb.is_some()));
    let (share, ratio) = (any(|row| row.share.is_some()), any(|row| row.against.is_some()));
    heads.extend(
        [(cpu, "CPU s/GB"), (share, "of limit"), (ratio, "ratio")]
            .iter()
            .filter(|(has, _)| *has)
            .map(|(_, head)| *head),
    );
    let mut text = line(&heads);
    for row in rows {
        let Some(figures) = &row.figures else {
            let _ = writeln!(text, "{:<20}skipped: {}", row.name, row.skipped.unwrap_or_default());
            continue;
        };
        let mut cells = figures.cells(row);
        if cpu {
            cells.push(figures.cpu_seconds_per_gb.map_or("-".into(), |seconds| format!("{seconds:.2}")));
        }
        if share {
            cells.push(row.share.as_ref().map_or("-".into(), Share::cell));
        }
        if let Some(Against { ratio, .. }) = &row.against {
            cells.push(format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max));
        }
        text += &line(&cells);
    }
    text
}

fn line<T: AsRef<str>>(cells: &[T]) -> String {
    let mut text = String::new();
    for (place, cell) in cells.iter().map(AsRef::as_ref).enumerate() {
        let _ = match place {
            0 => write!(text, "{cell:<20}"),
            1..=10 => write!(text, "{cell:>10}"),
            _ => write!(text, "{cell:>22}"),
        };
    }
    text + "\n"
}

impl Figures {
    fn cells(&self, row: &Row) -> Vec<String> {
        let megabytes = match self.bytes {
            0 => "-".into(),
            _ => format!("{:.1}", self.bytes_per_second / 1e6),
        };
        let millis = |value: f64| format!("{value:.2}");
        vec![
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

/// The processors that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn rate(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(items: &[u64]) -> Vec<Measured> {
        let elapsed = Duration::from_secs(1);
        items.iter().map(|items| Measured { items: *items, elapsed, ..Measured::default() }).collect()
    }

    #[test]
    fn ratios_are_of_neighbouring_rounds() {
        let ratio = Ratio::of(&rounds(&[30, 10, 90]), &rounds(&[10, 10, 10]));
        assert_eq!((ratio.median, ratio.min, ratio.max), (3.0, 1.0, 9.0));
        let ratio = Ratio::of(&rounds(&[30, 10]), &rounds(&[10, 10]));
        assert_eq!((ratio.median, ratio.rounds), (2.0, vec![3.0, 1.0]));
    }
}
