//! The line in which Bazel says what ran, and where. 4.2.3 counts internal actions, 2.1.0 only spawns:
//! `INFO: 75 processes: 3 remote cache hit, 34 internal, 38 remote.` · `INFO: 41 processes: 41 remote.` ·
//! `INFO: 0 processes.`

use std::collections::BTreeMap;

/// How many actions ran in which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    pub total: u64,
    /// By the name that Bazel gives it: `internal`, `remote`, `remote cache hit`, `linux-sandbox`, …
    pub by_kind: BTreeMap<String, u64>,
}

impl Processes {
    /// Spawns that ran on a worker.
    pub fn remote(&self) -> u64 {
        self.count("remote")
    }

    /// Spawns whose result came out of the remote cache.
    pub fn cached(&self) -> u64 {
        self.count("remote cache hit")
    }

    /// Actions that are no spawns.
    pub fn internal(&self) -> u64 {
        self.count("internal")
    }

    /// Spawns that ran on this machine, in whatever sandbox.
    pub fn local(&self) -> u64 {
        self.total - self.internal() - self.remote() - self.cached()
    }

    /// All spawns.
    pub fn spawns(&self) -> u64 {
        self.total - self.internal()
    }

    fn count(&self, kind: &str) -> u64 {
        self.by_kind.get(kind).copied().unwrap_or(0)
    }
}

/// Finds the line in what Bazel said; the last one counts.
pub fn parse(stderr: &str) -> Option<Processes> {
    stderr.lines().rev().find_map(parse_line)
}

fn parse_line(line: &str) -> Option<Processes> {
    let rest = line.trim_end().strip_prefix("INFO: ")?.strip_suffix('.')?;
    let (total, rest) = rest.split_once(' ')?;
    let rest = rest.strip_prefix("processes").or_else(|| rest.strip_prefix("process"))?;
    let total = total.parse().ok()?;
    let mut by_kind = BTreeMap::new();
    if !rest.is_empty() {
        for part in rest.strip_prefix(": ")?.split(", ") {
            let (count, kind) = part.split_once(' ')?;
            by_kind.insert(kind.to_owned(), count.parse().ok()?);
        }
    }
    Some(Processes { total, by_kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_versions() {
        let table: &[(&str, [u64; 5])] = &[
            ("INFO: 75 processes: 3 remote cache hit, 34 internal, 38 remote.", [75, 3, 34, 38, 0]),
            ("INFO: 41 processes: 41 linux-sandbox.", [41, 0, 0, 0, 41]),
            ("INFO: 5 processes: 1 internal, 2 processwrapper-sandbox, 2 local.", [5, 0, 1, 0, 4]),
            ("INFO: 1 process: 1 internal.", [1, 0, 1, 0, 0]),
            ("INFO: 0 processes.", [0, 0, 0, 0, 0]),
        ];
        for (line, expected) in table {
            let said = format!("Loading:\n{line}\nINFO: Build completed successfully, 75 total actions\n");
            let found = parse(&said).expect(line);
            let counts = [found.total, found.cached(), found.internal(), found.remote(), found.local()];
            assert_eq!(counts, *expected, "{line}");
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in ["INFO: Elapsed time: 6.344s", "INFO: many processes: 1 internal.", "75 processes", ""] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
