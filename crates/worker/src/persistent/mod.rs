//! Persistent workers: tools that are started once and asked many times, as Bazel's own are, inside the sandbox.
//!
//! An action asks for one by the exec property `persistentWorkerKey`; its tool's inputs are marked with the node property
//! `bazel_tool_input` (`ask`, `split`). Its flag files become a request (`flags`, `protocol`). A process that was
//! started with the same tools, arguments, environment, platform and image does it, or a new one (`pool`, `process`). The
//! inputs of the action are made in a directory of its own, as for every small action (`alone.rs`), and moved into the
//! process's root for the time of the request; then all that does not stay is moved out again, outputs among it, and
//! collected from there (`view`).
//!
//! What goes wrong with a process is no fault of the action: that is run the plain way then, by the caller. Only where the
//! plain way would end the same is it the result: the action's own limits of time, memory and output.

mod ask;
mod flags;
mod pool;
mod process;
mod protocol;
mod round;
mod split;
mod view;

pub use ask::Subject;
pub use pool::Pool;

use crate::{
    Stores, WorkerConfig, blocking::blocking, images::InUse, job::Job, scratch::Scratch, source::Source,
};
use ask::{Asked, recognise};
use mortar_model::{Error, Result};
use mortar_sandbox::{Exit, Sandbox};
use round::{Round, Verdict};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What persistent workers need of the worker.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// How it was set up.
    pub config: &'a WorkerConfig,
    /// Where inputs come from.
    pub stores: &'a Stores,
    /// Where processes run.
    pub sandbox: &'a Sandbox,
    /// Where their directories are.
    pub scratch: &'a Scratch,
    /// Those that wait.
    pub pool: &'a Pool,
}

/// What came of it.
pub enum Attempt {
    /// The action is done.
    Done(Done),
    /// It is to be run the plain way; where it asked for a persistent worker, because of this.
    Plain(Option<String>),
}

/// An action that was done by a persistent worker.
pub struct Done {
    /// How it ended.
    pub exit: Exit,
    /// Where its logs are, and its outputs in `exec`.
    pub directory: PathBuf,
}

/// What there is in an action's directory for its request, and for that to another process.
const ROUNDS: [&str; 2] = ["persistent", "persistent-again"];

impl Workshop<'_> {
    /// Has the action done by a persistent worker, if it asks for that and can have it.
    pub async fn attempt(
        self,
        job: &mut Job,
        subject: &Subject<'_>,
        image: Option<Arc<InUse>>,
        limit: Duration,
        directory: &Path,
    ) -> Result<Attempt> {
        let source = Source { job, stores: self.stores };
        let work = match recognise(&source, subject, self.config.limits).await? {
            Asked::Nothing => return Ok(Attempt::Plain(None)),
            Asked::Impossible(why) => {
                let why =
                    format!("the action was run without the persistent worker that it asked for: {why}");
                return Ok(Attempt::Plain(Some(why)));
            }
            Asked::Work(work) => work,
        };
        let [own, again] = ROUNDS.map(|name| directory.join(name));
        let mut round = Round { workshop: self, work: &work, subject, limit, own };
        round.prepare(job).await?;
        // At work until this is dropped.
        let (_turn, kept) = self.pool.take(&work.key).await;
        let is_new = kept.is_none();
        let mut verdict = round.run(job, kept, image.clone()).await?;
        // It may have ended while it had nothing to do; or what others left in its memory was too much.
        if !is_new && matches!(verdict, Verdict::Lost(_)) {
            round.own = again;
            round.prepare(job).await?;
            verdict = round.run(job, None, image).await?;
        }
        conclude(verdict, round.own, &work.key.arguments[0]).await
    }
}

/// What the action has come to, with its logs where they belong.
async fn conclude(verdict: Verdict, directory: PathBuf, tool: &str) -> Result<Attempt> {
    let (exit, log) = match verdict {
        Verdict::Answered(exit, log) | Verdict::Final(exit, log) => (exit, log),
        Verdict::Failed(why) | Verdict::Lost(why) => {
            tracing::warn!(tool, why, "an action is run again without its persistent worker");
            return Ok(Attempt::Plain(Some(why)));
        }
    };
    let own = directory.clone();
    let write = move || fs::write(own.join("stdout"), "").and_then(|()| fs::write(own.join("stderr"), log));
    blocking(move || write().map_err(|error| Error::io("write the log of an action", error))).await?;
    Ok(Attempt::Done(Done { exit, directory }))
}
