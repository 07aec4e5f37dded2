//! What is printed in the end about a server: a table for people, or JSON.

use super::{
    Settings,
    content::Content,
    machine::Machine,
    rows::{self, Row},
    scenarios::Outcome,
};
use anyhow::Result;
use serde::Serialize;

/// What the JSON means, as part of the help.
pub(super) const FIELDS: &str = "\
The JSON document: `mortar` (version of this client), `url`, `against` (the other URL, or null), `cores` (of this \
machine), `instance`, `digest_function`, `connections`, `content`, `large_size` (bytes), `duration_seconds`, `machine` \
(with --limits: `hash_bytes_per_second` on one core, `write_and_sync_bytes_per_second`, `cached_read_bytes_per_second`, \
`synced_files_per_second` of 4 KiB one after another, `synced_files_at_once_per_second` of sixteen writers, `loopback_bytes_per_second`), and `scenarios`: for each `name`, \
`item` (what is counted as items), `concurrency`, `skipped` (why, or null) and, unless skipped, `seconds`, `calls`, \
`items`, `bytes` (of content), `errors`, `first_error`, `calls_per_second`, `items_per_second`, `bytes_per_second`, \
`latency_ms` (of one call: `p50`, `p90`, `p99`, `max`), `client_cpu_seconds` (processor time of this client), \
`server_cpu_seconds` and `cpu_seconds_per_gb` (with --server-pid), `share` (with --limits: the `limit` that applies, and \
the `ratio` to it) and `against` (with --against: `figures` of the other server and `ratio`, this server's items a second \
over the other's: `median`, `min`, `max` and each of the `rounds`).

Reads count what arrives and do not hash it. Blobs are new, but those of one size share all but their last \
64 bytes: a server that stores chunks of blobs once has less to write. What scenarios that end in `-new` look up or read \
was written just before, to the server after --fill if there is one: of these, the times of calls tell more than their rate. The scenario `mix` has the calls and the sizes of \
blobs of a build of abseil by Bazel.";

#[derive(Serialize)]
pub(super) struct Report {
    mortar: &'static str,
    url: String,
    against: Option<String>,
    cores: usize,
    instance: String,
    digest_function: &'static str,
    connections: usize,
    content: Content,
    large_size: usize,
    duration_seconds: f64,
    machine: Option<Machine>,
    scenarios: Vec<Row>,
}

impl Report {
    pub(super) fn new(
        settings: &Settings,
        against: Option<String>,
        machine: Option<Machine>,
        outcomes: Vec<Outcome>,
    ) -> Self {
        Self {
            mortar: env!("CARGO_PKG_VERSION"),
            url: settings.url.clone(),
            against,
            cores: rows::cores(),
            instance: settings.instance.to_string(),
            digest_function: settings.function.name(),
            connections: settings.connections,
            content: settings.content,
            large_size: settings.large_size,
            duration_seconds: settings.duration.as_secs_f64(),
            scenarios: outcomes
                .into_iter()
                .map(|outcome| Row::of_server(outcome, machine.as_ref()))
                .collect(),
            machine,
        }
    }

    /// One document and a line's end.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The rows.
    pub(super) fn scenarios(&self) -> &[Row] {
        &self.scenarios
    }

    /// Aligned columns, with the circumstances above.
    pub(super) fn table(&self) -> String {
        let (version, url, cores, seconds) = (self.mortar, &self.url, self.cores, self.duration_seconds);
        let against = self.against.as_ref().map(|url| format!(", against {url}")).unwrap_or_default();
        let mut text = format!(
            "mortar {version} bench of {url}{against}: {cores} cores, {}, {} connections, {seconds} s a scenario\n",
            self.digest_function, self.connections
        );
        text += &self.machine.as_ref().map(Machine::line).unwrap_or_default();
        text += "\n";
        text += &rows::table(&self.scenarios);
        text
    }
}
