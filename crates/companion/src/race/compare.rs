//! Both places, to the end: what is not reproducible is told.

use super::{Local, fallback::is_away};
use async_trait::async_trait;
use mortar_model::{
    ActionResult, Context, Digest, ExecuteRequest, Executor, Outcome, Progress, Result, Termination,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

/// Reports that are kept, the newest.
const KEPT: usize = 1_000;

/// Runs each action behind the upstream and here, and answers what the upstream says. The executor behind `local` must
/// record nothing, so that no result of the upstream is replaced.
pub struct Compare {
    remote: Arc<dyn Executor>,
    local: Local,
    comparisons: Arc<Comparisons>,
}

/// What was compared so far.
#[derive(Debug, Default)]
pub struct Comparisons(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    same: u64,
    different: u64,
    not_compared: u64,
    reports: VecDeque<Report>,
}

/// An action whose results differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which action.
    pub action: Digest,
    /// What kind of action it is.
    pub mnemonic: String,
    /// For which target.
    pub target: String,
    /// Where they differ.
    pub differences: Vec<Difference>,
}

/// One difference between the results of the same action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// An output's path, or `exit code`.
    pub what: String,
    /// What it is here.
    pub here: String,
    /// What the upstream has.
    pub upstream: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: here {}, upstream {}", self.what, self.here, self.upstream)
    }
}

impl Comparisons {
    /// How many actions gave the same twice, how many did not, and how many could not be compared.
    pub fn counts(&self) -> (u64, u64, u64) {
        let seen = self.0.lock();
        (seen.same, seen.different, seen.not_compared)
    }

    /// The actions that are not reproducible, the newest last.
    pub fn reports(&self) -> Vec<Report> {
        self.0.lock().reports.iter().cloned().collect()
    }

    fn compared(&self, report: Report) {
        let mut seen = self.0.lock();
        if report.differences.is_empty() {
            seen.same += 1;
            return;
        }
        for difference in &report.differences {
            tracing::warn!(action = %report.action, mnemonic = report.mnemonic, target = report.target, "not reproducible: {difference}");
        }
        seen.different += 1;
        if seen.reports.len() >= KEPT {
            seen.reports.pop_front();
        }
        seen.reports.push_back(report);
    }
}

impl Compare {
    /// Over both places.
    pub fn new(remote: Arc<dyn Executor>, local: Local) -> Self {
        Self { remote, local, comparisons: Arc::default() }
    }

    /// What was compared so far.
    pub fn comparisons(&self) -> Arc<Comparisons> {
        self.comparisons.clone()
    }
}

#[async_trait]
impl Executor for Compare {
    async fn execute(
        &self,
        context: &Context,
        request: ExecuteRequest,
        progress: &dyn Progress,
    ) -> Result<Outcome> {
        let action = request.action_digest;
        let there = self.remote.execute(context, request.clone(), progress);
        let here = self.local.run(context, request, &());
        let (there, here) = tokio::join!(there, here);
        match (&there, here) {
            (Ok(there), Ok(here)) if ended(there) && ended(&here) => {
                let request = &context.request;
                self.comparisons.compared(Report {
                    action,
                    mnemonic: request.action_mnemonic.clone(),
                    target: request.target_id.clone(),
                    differences: differences(&here.result, &there.result),
                });
            }
            (Err(error), Ok(here)) if is_away(error) => return Ok(here),
            (_, here) => {
                self.comparisons.0.lock().not_compared += 1;
                if let Err(error) = here {
                    tracing::debug!(%action, %error, "an action could not be run here, so it was not compared");
                }
            }
        }
        there
    }
}

fn ended(outcome: &Outcome) -> bool {
    outcome.termination == Termination::Exited
}

/// Where two results of one action differ. What only describes the execution (times, logs of the command) does not count.
fn differences(here: &ActionResult, upstream: &ActionResult) -> Vec<Difference> {
    let mut differences = Vec::new();
    if here.exit_code != upstream.exit_code {
        let (here, upstream) = (here.exit_code.to_string(), upstream.exit_code.to_string());
        differences.push(Difference { what: "exit code".into(), here, upstream });
    }
    let (here, upstream) = (outputs(here), outputs(upstream));
    let paths = here.keys().chain(upstream.keys().filter(|path| !here.contains_key(*path)));
    for path in paths {
        let told = |outputs: &BTreeMap<String, String>| {
            outputs.get(path).cloned().unwrap_or_else(|| "is not made".into())
        };
        let (here, upstream) = (told(&here), told(&upstream));
        if here != upstream {
            differences.push(Difference { what: format!("`{path}`"), here, upstream });
        }
    }
    differences
}

/// What each output is, by its path.
fn outputs(result: &ActionResult) -> BTreeMap<String, String> {
    let files = result.files.iter().map(|file| {
        let kind = if file.is_executable { "executable file" } else { "file" };
        (file.path.clone(), format!("{kind} `{}`", file.digest))
    });
    let directories = result.directories.iter().filter_map(|directory| {
        let digest = directory.tree_digest.or(directory.root_directory_digest)?;
        Some((directory.path.clone(), format!("directory `{digest}`")))
    });
    let links = [&result.symlinks, &result.file_symlinks, &result.directory_symlinks];
    let links =
        links.into_iter().flatten().map(|link| (link.path.clone(), format!("link to `{}`", link.target)));
    files.chain(directories).chain(links).collect()
}
