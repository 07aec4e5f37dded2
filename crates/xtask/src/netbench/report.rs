//! What was measured, as Markdown for the documents and as JSON for programs.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{fmt::Write as _, path::Path, process::Command, time::Duration};

/// How a build is built, in the order of a table's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Without any server.
    Local,
    /// Executed by a server that has nothing.
    Cold,
    /// Everything comes from the server's cache, and is downloaded.
    Cached,
    /// The same, and Bazel downloads only what it needs.
    Minimal,
    /// Executed here, with a cache that has nothing.
    CacheOnly,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "no server",
            Self::Cold => "cold",
            Self::Cached => "cached",
            Self::Minimal => "minimal",
            Self::CacheOnly => "cache-only",
        }
    }
}

/// What stands between Bazel and the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Between {
    Nothing,
    /// A companion that has nothing.
    New,
    /// A companion through which the same was built before.
    Warm,
}

impl Between {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "alone",
            Self::New => "new companion",
            Self::Warm => "warm companion",
        }
    }
}

/// What one build took, and what passed on the network for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Until Bazel was done.
    pub(super) took: Duration,
    /// How much longer `mortar companion flush` took then.
    pub(super) flush: Option<Duration>,
    pub(super) calls: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) spawns: u64,
}

impl Sample {
    pub(super) fn seconds(&self) -> f64 {
        self.took.as_secs_f64()
    }
}

/// One build, measured once or more often.
#[derive(Clone, Debug)]
struct Row {
    network: String,
    kind: Kind,
    between: Between,
    /// The quickest first.
    samples: Vec<Sample>,
}

impl Row {
    /// The median; of two in the middle, the slower one.
    fn sample(&self) -> Sample {
        self.samples[self.samples.len() / 2]
    }
}

/// A figure that is asked of the companion.
#[derive(Clone, Debug)]
struct Figure {
    what: String,
    at_most: f64,
    measured: f64,
}

/// What one scenario gave.
#[derive(Clone, Debug)]
pub(super) struct Table {
    title: String,
    about: String,
    rows: Vec<Row>,
    figures: Vec<Figure>,
}

impl Table {
    pub(super) fn new(title: String, about: &str) -> Table {
        Table { title, about: about.to_owned(), rows: Vec::new(), figures: Vec::new() }
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn add(&mut self, network: &str, kind: Kind, between: Between, sample: Sample) {
        let is_it = |row: &&mut Row| row.network == network && row.kind == kind && row.between == between;
        match self.rows.iter_mut().find(is_it) {
            Some(row) => {
                row.samples.push(sample);
                row.samples.sort_by_key(|sample| sample.took);
            }
            None => self.rows.push(Row { network: network.to_owned(), kind, between, samples: vec![sample] }),
        }
    }

    /// How long a build took that was measured.
    pub(super) fn seconds(&self, network: &str, kind: Kind, between: Between) -> f64 {
        self.row(network, kind, between).expect("it was measured before").sample().seconds()
    }

    /// Holds what was measured against what is asked.
    pub(super) fn figure(&mut self, what: &str, at_most: f64, measured: f64) {
        self.figures.push(Figure { what: what.to_owned(), at_most, measured });
    }

    /// Of the lines that have both a build alone and one with a companion: how many there are, and in how many the latter
    /// took longer.
    fn slower(&self) -> (usize, usize) {
        let pairs = self.rows.iter().filter(|row| row.between == Between::Nothing).filter_map(|alone| {
            let with = self.row(&alone.network, alone.kind, Between::New)?;
            Some(with.sample().took > alone.sample().took)
        });
        let pairs: Vec<bool> = pairs.collect();
        (pairs.len(), pairs.iter().filter(|slower| **slower).count())
    }

    fn row(&self, network: &str, kind: Kind, between: Between) -> Option<&Row> {
        self.rows.iter().find(|row| row.network == network && row.kind == kind && row.between == between)
    }

    fn markdown(&self) -> String {
        let spawns = self.rows.first().map_or(0, |row| row.sample().spawns);
        let rounds = match self.rows.iter().map(|row| row.samples.len()).max() {
            Some(rounds @ 2..) => format!(" Each build {rounds} times, of which the median is told."),
            _ => String::new(),
        };
        let mut text = format!("**{}** ({spawns} spawns). {}{rounds}\n\n", self.title, self.about);
        text += "| network | build | alone: s | calls | KB up | KB down | companion: s | flush: s | calls | KB up | KB down |\n";
        text += "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        for row in self.in_order() {
            if let Some(line) = self.line(row) {
                text += &line;
            }
        }
        for Figure { what, at_most, measured } in &self.figures {
            let judged = if measured <= at_most { "reached" } else { "not reached" };
            let _ = write!(text, "\nAsked: {what}: at most {at_most}; measured {measured:.2}: {judged}.\n");
        }
        let (pairs, slower) = self.slower();
        if pairs > 0 {
            let _ = write!(text, "\nSlower with a companion: {slower} of {pairs} lines.\n");
        }
        text
    }

    /// By network, as they came, and by kind.
    fn in_order(&self) -> Vec<&Row> {
        let came = |row: &Row| self.rows.iter().position(|other| other.network == row.network);
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|row| (came(row), row.kind, row.between));
        rows
    }

    /// One with and one without a companion stand in one line, that of the latter.
    fn line(&self, row: &Row) -> Option<String> {
        let (alone, companion) = match row.between {
            Between::Nothing => (Some(row), self.row(&row.network, row.kind, Between::New)),
            Between::New if self.row(&row.network, row.kind, Between::Nothing).is_some() => return None,
            Between::New | Between::Warm => (None, Some(row)),
        };
        let warm = if row.between == Between::Warm { ", companion has all" } else { "" };
        let cells = |row: Option<&Row>, has_flush: bool| match row.map(Row::sample) {
            Some(sample) => {
                let flush =
                    sample.flush.map_or(String::new(), |flush| format!(" {:.2} |", flush.as_secs_f64()));
                let (up, down) = (kilobytes(sample.bytes_up), kilobytes(sample.bytes_down));
                format!(" {:.2} |{flush} {} | {up} | {down} |", sample.seconds(), sample.calls)
            }
            None => " |".repeat(if has_flush { 5 } else { 4 }),
        };
        let (network, kind) = (&row.network, row.kind.name());
        Some(format!("| {network} | {kind}{warm} |{}{}\n", cells(alone, false), cells(companion, true)))
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let sample = row.sample();
            json!({
                "network": row.network,
                "build": row.kind.name(),
                "between": row.between.name(),
                "seconds": sample.seconds(),
                "seconds_of_all": row.samples.iter().map(Sample::seconds).collect::<Vec<_>>(),
                "flush_seconds": sample.flush.map(|flush| flush.as_secs_f64()),
                "calls": sample.calls,
                "bytes_up": sample.bytes_up,
                "bytes_down": sample.bytes_down,
                "spawns": sample.spawns,
            })
        });
        let figures = self.figures.iter().map(|Figure { what, at_most, measured }| {
            json!({ "what": what, "at_most": at_most, "measured": measured })
        });
        json!({
            "title": self.title,
            "about": self.about,
            "rows": rows.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
            "slower_with_companion": self.slower().1,
        })
    }
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e3)
}

/// All scenarios, and what they were measured on.
#[derive(Debug)]
pub(super) struct Report {
    version: String,
    processors: usize,
    load: [String; 2],
    tables: Vec<Table>,
}

impl Report {
    pub(super) fn begin(program: &Path) -> Result<Report> {
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("`{}` cannot be run", program.display()))?;
        ensure!(output.status.success(), "`{}` --version: {}", program.display(), output.status);
        Ok(Report {
            version: String::from_utf8(output.stdout)?.trim().to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            load: [load(), String::new()],
            tables: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub(super) fn end(&mut self) {
        self.load[1] = load();
    }

    pub(super) fn markdown(&self) -> String {
        let Report { version, processors, load: [before, after], tables } = self;
        let mut text = format!(
            "{version}, Bazel 4.2.3, {processors} processors, load {before} before and {after} after.\n{EXPLAINED}\n"
        );
        for table in tables {
            let _ = write!(text, "\n{}", table.markdown());
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "version": self.version,
            "processors": self.processors,
            "load_before": self.load[0],
            "load_after": self.load[1],
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
        })
    }
}

/// What the rows are.
const EXPLAINED: &str = "\
Every build is a clean one of `//...` with a warm Bazel server, measured once where nothing else is said. Milliseconds are those of a call and its \
answer; a rate is that of each way. `no server`: local. `cold`: `--remote_executor`, and the server has nothing. \
`cached`: the same, and the server has everything. `minimal`: cached with `--remote_download_minimal`. `cache-only`: \
`--remote_cache`, executed here (without a sandbox), and the server has nothing. Each build with a companion begins with one \
that has nothing, except where it \"has all\". Times end when Bazel ends; `flush` is what `mortar companion flush` takes after \
that. Calls (streams of HTTP/2) and bytes are those on the network, until nothing passes any more.";

/// The averages over 1, 5 and 15 minutes.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(between: Between, millis: u64) -> Sample {
        let took = Duration::from_millis(millis);
        let flush = (between != Between::Nothing).then_some(Duration::from_millis(30));
        Sample { took, flush, calls: 7, bytes_up: 2_000, bytes_down: 41_499, spawns: 3 }
    }

    fn table(rows: &[(Kind, Between, u64)]) -> Table {
        let mut table = Table::new("chain".to_owned(), "Small.");
        for (kind, between, millis) in rows {
            table.add("100 ms", *kind, *between, sample(*between, *millis));
        }
        table
    }

    #[test]
    fn what_belongs_together_stands_in_one_line() {
        let mut table = table(&[
            (Kind::Cold, Between::Nothing, 2_000),
            (Kind::Cached, Between::Nothing, 1_000),
            (Kind::Minimal, Between::Nothing, 900),
            (Kind::Cold, Between::New, 1_500),
            (Kind::Cached, Between::Warm, 250),
        ]);
        let companion = table.seconds("100 ms", Kind::Cold, Between::New);
        table.figure("cold, in seconds", 1.0, companion);
        table.figure(
            "cold, times alone",
            0.8,
            companion / table.seconds("100 ms", Kind::Cold, Between::Nothing),
        );
        let text = table.markdown();
        let lines: Vec<_> = text.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "| 100 ms | cold | 2.00 | 7 | 2 | 41 | 1.50 | 0.03 | 7 | 2 | 41 |",
                "| 100 ms | cached | 1.00 | 7 | 2 | 41 | | | | | |",
                "| 100 ms | cached, companion has all | | | | | 0.25 | 0.03 | 7 | 2 | 41 |",
                "| 100 ms | minimal | 0.90 | 7 | 2 | 41 | | | | | |",
                "",
                "Asked: cold, in seconds: at most 1; measured 1.50: not reached.",
                "",
                "Asked: cold, times alone: at most 0.8; measured 0.75: reached.",
                "",
                "Slower with a companion: 0 of 1 lines.",
            ]
        );
        assert!(text.starts_with("**chain** (3 spawns). Small.\n\n| network |"), "{text}");
    }

    #[test]
    fn of_many_builds_the_median_is_told() {
        let alone = [900, 2_000, 1_000].map(|millis| (Kind::Cold, Between::Nothing, millis));
        let with = [5_000, 1_001, 500].map(|millis| (Kind::Cold, Between::New, millis));
        let table = table(&[alone, with].concat());
        assert_eq!(table.seconds("100 ms", Kind::Cold, Between::Nothing), 1.0);
        let text = table.markdown();
        assert!(text.contains("Small. Each build 3 times, of which the median is told.\n"), "{text}");
        assert!(text.contains("| 100 ms | cold | 1.00 |") && text.contains("| 1.00 | 0.03 |"), "{text}");
        assert_eq!(table.slower(), (1, 1));
    }
}
