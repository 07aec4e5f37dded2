//! One request to one process: the inputs laid in, the question, what is there then taken out, and what to think of it.

use super::{
    Workshop,
    ask::{Subject, Work},
    process::{Bounds, Process, Start, Told},
    protocol::Response,
};
use crate::{
    alone,
    blocking::blocking,
    images::InUse,
    job::Job,
    run,
    source::Source,
    stage::{Plan, Protection},
};
use mortar_model::{Error, PersistentWorker, Result};
use mortar_sandbox::{Ending, Exit, Limit, Usage};
use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// A request.
pub struct Round<'a> {
    /// What is needed for it.
    pub workshop: Workshop<'a>,
    /// What is to be done.
    pub work: &'a Work,
    /// The action that it comes from.
    pub subject: &'a Subject<'a>,
    /// When it is too late.
    pub limit: Duration,
    /// The directory for it alone: its inputs are made here, in `exec`, and what was made comes here.
    pub own: PathBuf,
}

/// What it has come to; with the log of the action where that is done.
pub enum Verdict {
    /// It was answered.
    Answered(Exit, Vec<u8>),
    /// The process is of no more use, and the action would end the same without it.
    Final(Exit, Vec<u8>),
    /// The process ended, or was none, for this reason.
    Lost(String),
    /// The process misbehaved, in this way.
    Failed(String),
}

impl Round<'_> {
    /// Makes the inputs.
    pub async fn prepare(&self, job: &Job) -> Result<()> {
        let made = self.own.clone();
        blocking(move || fs::create_dir(made).map_err(|error| Error::io("create a work directory", error)))
            .await?;
        let owner = self.workshop.sandbox.owner();
        // In its own root the process could change what belongs to it. Where it is us, that is everything: so it gets copies.
        let protection = Protection { link: owner.is_some(), owner };
        let (root, places) = (Arc::clone(&self.work.parts.rest), self.subject.places.clone());
        let source = Source { job, stores: self.workshop.stores };
        let plan = Plan { root, places, exec: self.own.join("exec"), protection };
        alone::build(&source, plan).await.map(drop)
    }

    /// Has it done by this process, or a new one. What has answered is kept, what has not is ended.
    pub async fn run(
        &self,
        job: &mut Job,
        kept: Option<Process>,
        image: Option<Arc<InUse>>,
    ) -> Result<Verdict> {
        let found = match kept {
            Some(process) => Ok(process),
            None => self.start(job, image).await?,
        };
        let mut process = match found {
            Ok(process) => process,
            Err(why) => return Ok(Verdict::Lost(why)),
        };
        job.note(|times| &mut times.input_fetch_completed);
        job.enter(|times| &mut times.execution_start);
        let started = Instant::now();
        let (told, log) = self.put(&mut process, job).await;
        let wall = started.elapsed();
        job.note(|times| &mut times.execution_completed);
        let verdict = self.judge(told, log, process.answered, wall);
        if let Verdict::Answered(..) = verdict {
            process.answered += 1;
            job.metadata.persistent_worker = Some(PersistentWorker { requests: process.answered });
            self.workshop.pool.keep(process).await;
        } else {
            // How it ends now says no more than was told already.
            process.end(self.workshop.scratch).await.ok();
        }
        job.check().map(|()| verdict)
    }

    /// Starts a process. What is wrong with the inputs is an error of ours; what is wrong with the start only a reason.
    async fn start(
        &self,
        job: &Job,
        image: Option<Arc<InUse>>,
    ) -> Result<std::result::Result<Process, String>> {
        let Workshop { sandbox, scratch, config, stores, .. } = self.workshop;
        let source = &Source { job, stores };
        let tools = Arc::clone(&self.work.parts.tools);
        let start = Start { source, sandbox, scratch, usable: &config.usable, tools, image };
        match Process::start(start, self.work.key.clone()).await {
            Ok(process) => Ok(Ok(process)),
            Err(error) if error.is_not_found() || job.check().is_err() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "a persistent worker could not be started");
                Ok(Err("the persistent worker could not be started".into()))
            }
        }
    }

    /// Lays the inputs in, asks, and takes out what is there then. With what came of it comes what is to be read of it.
    async fn put(&self, process: &mut Process, job: &Job) -> (Told, Vec<u8>) {
        process.forget_log();
        let written = match self.lay(process).await {
            Ok(written) => written,
            Err(error) => return (Told::Garbage(error.to_string()), Vec::new()),
        };
        let bounds = Bounds { job, limit: self.limit, answer: self.workshop.config.limits.message, written };
        let told = process.ask(&self.work.request, bounds).await;
        let is_too_much = self.has_written_more(process, written).await;
        let taken = self.take(process).await;
        match (told, taken) {
            (Told::Answer(_), _) if is_too_much => (Told::TooMuch, process.tail()),
            (Told::Answer(Response { exit_code, output }), Ok(())) => {
                (Told::Answer(Response { exit_code, output: Vec::new() }), output)
            }
            (Told::Answer(_), Err(error)) => (Told::Garbage(error.to_string()), process.tail()),
            (told, _) => (told, process.tail()),
        }
    }

    /// Lays the inputs in. Where there is a limit on outputs, so many bytes may be there from now on.
    async fn lay(&self, process: &Process) -> Result<Option<u64>> {
        let (view, from, late) = (Arc::clone(&process.view), self.own.join("exec"), self.own.join("late"));
        let (writable, most) = (self.subject.places.writable.clone(), self.workshop.config.usable.output);
        // Where it is us, it may have written while it had nothing to do.
        let may_have_written = self.workshop.sandbox.owner().is_none();
        blocking(move || {
            let failed = |error| Error::io("lay in the inputs", error);
            if may_have_written && view.take(&late).map_err(failed)? > 0 {
                return Err(Error::internal("it wrote something while it had nothing to do"));
            }
            view.lay(&from, &writable).map_err(failed)?;
            Ok(most.map(|most| most + view.written()))
        })
        .await
    }

    async fn has_written_more(&self, process: &Process, most: Option<u64>) -> bool {
        let (Some(most), view) = (most, Arc::clone(&process.view)) else { return false };
        blocking(move || Ok(view.written() > most)).await.unwrap_or(false)
    }

    async fn take(&self, process: &Process) -> Result<()> {
        let (view, to) = (Arc::clone(&process.view), self.own.join("exec"));
        blocking(move || view.take(&to).map(drop).map_err(|error| Error::io("take out what it made", error)))
            .await
    }

    fn judge(&self, told: Told, log: Vec<u8>, answered: u64, wall: Duration) -> Verdict {
        let usable = &self.workshop.config.usable;
        let exit = |ending| Exit { ending, wall, usage: Usage::default() };
        match told {
            Told::Answer(response) => Verdict::Answered(exit(Ending::Code(response.exit_code)), log),
            Told::TimedOut => Verdict::Final(exit(Ending::TimedOut), log),
            Told::Cancelled => Verdict::Final(exit(Ending::Cancelled), log),
            Told::TooMuch => {
                let ending = Ending::Exceeded { limit: Limit::Output, code: Ending::Cancelled.code() };
                Verdict::Final(exit(ending), log)
            }
            // What others have left in its memory may be too much; what this action does alone would be again.
            Told::Ended(Ok(ended)) if is_out_of_memory(ended.ending) && answered == 0 => {
                Verdict::Final(exit(ended.ending), log)
            }
            Told::Ended(Ok(ended)) => {
                let why = run::explain(ended.ending, self.limit, usable);
                let code = format!("it ended with exit code {}", ended.ending.code());
                Verdict::Lost(trouble(if why.is_empty() { &code } else { &why }, &log))
            }
            Told::Ended(Err(why)) => Verdict::Lost(trouble(&why, &log)),
            Told::Garbage(what) => Verdict::Failed(trouble(&what, &log)),
        }
    }
}

/// What went wrong with a process, for the person who reads of its action.
fn trouble(what: &str, log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    match log.trim_end() {
        "" => format!("the persistent worker failed: {what}"),
        log => format!("the persistent worker failed: {what}; its standard error ends with:\n{log}"),
    }
}

fn is_out_of_memory(ending: Ending) -> bool {
    matches!(ending, Ending::Exceeded { limit: Limit::Memory, .. })
}
