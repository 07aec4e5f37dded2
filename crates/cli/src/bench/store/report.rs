//! What is printed about a store.

use super::{
    super::{
        content::Content,
        machine::Machine,
        rows::{self, Row},
    },
    Args,
    endurance::Endurance,
    engine::Engine,
    fill::Filled,
    opening::Opening,
};
use anyhow::Result;
use serde::Serialize;
use std::{fmt::Write, path::PathBuf};

/// What the JSON means, as part of the help.
pub(super) const FIELDS: &str = "\
The JSON document: `mortar`, `directory`, `engine`, `max_size`, `cores`, `digest_function`, `content`, `large_size`, \
`duration_seconds`, `page_cache` (`warm`, or `cold`: reads begin with the store's files dropped from it), `machine` \
(with --limits), `scenarios` (as of `mortar bench URL`; `cpu_seconds_per_gb` is of this process, which makes the load \
too), and

`filled` (with --blobs): `blobs`, `size`, `seconds`, `blobs_per_second`, `bytes_per_second`, `cpu_seconds`;

`opening` (with --blobs), of a new process: `open_seconds`, `first_answer_seconds` (from the beginning of opening), \
`rss_anon_before`, `rss_anon_open`, `rss_anon_after` (anonymous resident memory: before opening, after the first answer, \
in the end), `rss_anon_bytes_per_blob`, `find_missing_calls` of 1,000 digests one after another, `find_missing_p50_ms`, \
`find_missing_p99_ms`, and of the blobs that were written, how many were `asked` for and how many of these were `missing`;

`endurance` (with --fill): `unfilled` and, once the store is filled, ten `slices` of the duration, each with `seconds`, \
`builds`, `bytes`, `bytes_per_second`; `unfilled_percent` (how full the store was by the end of `unfilled`), \
`filled_percent` (what was written by then), `throughput_ratio` (of all slices to `unfilled`), `slowest_ratio`, \
`evictions`, `refused` (builds that the store had no room for), `promises` (blobs and results that a build relied on), \
`lease_violations` (those of them that were gone while it ran), `older_results` (results of earlier builds that were \
asked for and served) and `dangling_results` (results that named a blob that was gone).";

#[derive(Serialize)]
pub(super) struct Report {
    mortar: &'static str,
    directory: PathBuf,
    engine: Engine,
    max_size: u64,
    cores: usize,
    digest_function: &'static str,
    content: Content,
    large_size: u64,
    duration_seconds: f64,
    page_cache: &'static str,
    pub(super) machine: Option<Machine>,
    pub(super) filled: Option<Filled>,
    pub(super) opening: Option<Opening>,
    pub(super) endurance: Option<Endurance>,
    pub(super) scenarios: Vec<Row>,
}

impl Report {
    /// Of what was asked for; what is measured is added.
    pub(super) fn new(args: &Args) -> Self {
        Self {
            mortar: env!("CARGO_PKG_VERSION"),
            directory: args.directory.clone(),
            engine: args.engine,
            max_size: args.max_size.0,
            cores: rows::cores(),
            digest_function: args.load.digest_function.name(),
            content: args.load.content,
            large_size: args.load.large_size.0,
            duration_seconds: args.load.duration.0.as_secs_f64(),
            page_cache: if args.cold { "cold" } else { "warm" },
            machine: None,
            filled: None,
            opening: None,
            endurance: None,
            scenarios: Vec::new(),
        }
    }

    /// One document and a line's end.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "mortar {} bench of the store in {}: {} cores, {}, page cache {}, {} s a scenario\n",
            self.mortar,
            self.directory.display(),
            self.cores,
            self.digest_function,
            self.page_cache,
            self.duration_seconds
        );
        text += &self.machine.as_ref().map(Machine::line).unwrap_or_default();
        if let Some(filled) = &self.filled {
            let _ =
                writeln!(text, "filled with {} blobs, {:.0} a second", filled.blobs, filled.blobs_per_second);
        }
        if let Some(opening) = &self.opening {
            let _ = writeln!(
                text,
                "opened: first answer after {:.3} s, {:.1} MiB of anonymous memory, 1,000 digests looked for in {:.3} ms (p99 {:.3} ms)",
                opening.first_answer_seconds,
                opening.rss_anon_after as f64 / f64::from(1 << 20),
                opening.find_missing_p50_ms,
                opening.find_missing_p99_ms
            );
        }
        text += &self.endurance.as_ref().map(Endurance::lines).unwrap_or_default();
        if !self.scenarios.is_empty() {
            text.push('\n');
            text += &rows::table(&self.scenarios);
        }
        text
    }
}
