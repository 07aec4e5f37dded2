//! The worker itself: the steps of an execution in their order, and what they share.

use crate::{
    Limits, Stores, WorkerConfig,
    beneath::Root,
    blocking::blocking,
    cache::{DirectoryCache, Lease},
    collect::{Collected, Collector},
    fetch::{Fetched, fetch},
    images::{self, Images, InUse},
    job::Job,
    live_logs::LiveLogs,
    outputs::Places,
    persistent::{Attempt, Done, Pool, Subject, Workshop},
    record::record,
    room::Room,
    run::{self, Launch},
    scratch::Scratch,
    source::Source,
    stage::{Plan, Protection, Staged, stage},
    tree::Known,
    trials::{open_cache, probe},
    upload::upload,
};
use mortar_model::{
    Action, Clock, Command, DigestFunction, Error, ExecutionMetadata, Kind, Outcome, Progress, Result,
    SystemClock, Termination, session::Run,
};
use mortar_sandbox::{Ending, Exit, Isolation, Layers, Sandbox};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Runs actions on this machine. Cheap to clone: all clones are the same worker.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    config: WorkerConfig,
    stores: Stores,
    sandbox: Sandbox,
    images: Images,
    layers: Layers,
    known: Known,
    /// Where the kernel lays directories over each other for us. Goes before the directory that it is in.
    cache: Option<DirectoryCache>,
    /// They end before their directories go.
    persistent: Pool,
    scratch: Arc<Scratch>,
    room: Room,
    logs: LiveLogs,
    clock: Arc<dyn Clock>,
}

impl Worker {
    /// Sets a worker up: makes its work directory, removes what dead ones left, and tries the sandbox.
    pub async fn open(mut config: WorkerConfig, stores: Stores) -> Result<Self> {
        // Commands start elsewhere.
        for path in [&mut config.work_directory, &mut config.images] {
            *path =
                std::path::absolute(&*path).map_err(|error| Error::io("find out where this is", error))?;
        }
        let parent = config.work_directory.clone();
        let scratch = blocking(move || Scratch::open(&parent)).await?;
        let sandbox = Sandbox::new(config.sandbox.clone());
        let layers = probe(&scratch, &sandbox).await?;
        if config.sandbox.isolation == Isolation::Namespaces && !layers.complete() {
            let message = format!("this machine does not permit the sandbox: {layers}");
            return Err(Error::new(Kind::FailedPrecondition { message })
                .hint("isolation `none` runs actions without a sandbox"));
        }
        let cache = open_cache(&config, &scratch, &sandbox).await?;
        for what in sandbox.without_control_groups() {
            tracing::warn!(
                "no control group can limit actions in: {what}; weaker limits apply where there are any"
            );
        }
        if config.usable.cpu_millis.is_some() && sandbox.without_control_groups().contains(&"cpu") {
            tracing::warn!(
                "actions are not held to their share of processors: no control group can do that here"
            );
        }
        tracing::info!(isolation = ?config.sandbox.isolation, %layers, "the worker is ready to run actions");
        let clock = Arc::new(SystemClock);
        let known = Known::default();
        let images = Images::new(&config.images);
        let logs = LiveLogs::default();
        let scratch = Arc::new(scratch);
        let persistent = Pool::new(config.slots, config.persistent_idle, Arc::clone(&scratch));
        let room = Room::new(&config.name, &config.work_directory);
        let inner = Inner {
            config,
            stores,
            sandbox,
            images,
            layers,
            known,
            cache,
            persistent,
            scratch,
            room,
            logs,
            clock,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// How this worker was set up.
    pub fn config(&self) -> &WorkerConfig {
        &self.0.config
    }

    /// What the machine permits.
    pub fn layers(&self) -> &Layers {
        &self.0.layers
    }

    /// The images that actions may run in, as they are announced; none where the host's files cannot be hidden.
    pub fn images(&self) -> Vec<String> {
        if self.0.config.sandbox.isolation == Isolation::None {
            return Vec::new();
        }
        self.0.images.announced().unwrap_or_else(|error| {
            tracing::warn!("the images cannot be told: {error}");
            Vec::new()
        })
    }

    /// What the input roots that are kept for later actions take on disk: bytes, and files with directories and links.
    pub fn kept(&self) -> (u64, u64) {
        self.0.cache.as_ref().map_or((0, 0), DirectoryCache::usage)
    }

    /// What the commands that run have written.
    pub(crate) fn logs(&self) -> &LiveLogs {
        &self.0.logs
    }

    /// The persistent workers that wait for more work.
    pub fn idle_persistent_workers(&self) -> usize {
        self.0.persistent.idle()
    }

    /// Runs one action as a server asks. It is over, and nothing of it is left, when this returns: to stop it, cancel it
    /// and go on waiting. Progress is told each step with the times so far.
    pub async fn run(
        &self,
        run: Run,
        progress: Arc<dyn Progress>,
        cancelled: CancellationToken,
    ) -> Result<Outcome> {
        let inner = &self.0;
        let mut job = Job {
            context: run.context,
            action: run.action_digest,
            metadata: ExecutionMetadata { worker: inner.config.name.clone(), ..run.metadata },
            progress,
            cancelled,
            clock: Arc::clone(&inner.clock),
        };
        job.enter(|times| &mut times.worker_start);
        let explain = |error| inner.room.explain(error);
        let directory = inner.scratch.directory().await.map_err(explain)?;
        inner.logs.begin(&run.execution, &directory);
        let result = Box::pin(inner.steps(&mut job, run.default_timeout, &directory)).await.map_err(explain);
        inner.logs.end(&run.execution);
        inner.room.look();
        match inner.sandbox.protects_inputs() {
            true => inner.scratch.empty(directory).await,
            // The command could do with it what it wanted.
            false => inner.scratch.remove(directory).await,
        }
        result
    }
}

/// A command that was run.
struct Ran {
    exit: Exit,
    /// Where its logs are, and its outputs in `exec`.
    directory: PathBuf,
    lower: Option<Lease>,
    /// What a person should know of how.
    note: Option<String>,
}

impl Inner {
    async fn steps(&self, job: &mut Job, default_timeout: Duration, directory: &Path) -> Result<Outcome> {
        job.enter(|times| &mut times.input_fetch_start);
        let source = Source { job, stores: &self.stores };
        let Fetched { action, command, root } = fetch(&source, &self.known, self.config.limits).await?;
        let limit = run::time_limit(&action, default_timeout, &self.config)?;
        let image = self.image(&action, &command).await?.map(Arc::new);
        let places = Places::of(&command, &root)?;
        let seen = image.as_ref().map(|image| image.root().to_owned());
        let subject = Subject {
            action: &action,
            command: &command,
            root: &root,
            places: &places,
            image: seen.as_deref(),
        };
        let ran = self.ran(job, &subject, image.clone(), limit, directory);
        let Ran { exit, directory, lower, note } = self.room.during(ran).await?;
        drop(image);
        job.metadata.virtual_execution_duration = Some(exit.wall);

        job.enter(|times| &mut times.output_upload_start);
        let mut collected = self.collect(job, command, &directory, lower, &exit).await?;
        upload(job, &*self.stores.blobs, &mut collected).await?;
        job.note(|times| &mut times.output_upload_completed);
        job.note(|times| &mut times.worker_completed);

        let mut outcome = outcome(job, collected, &exit, limit, &self.config.usable);
        let told = [note.unwrap_or_default(), outcome.message];
        outcome.message = told.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
        record(job, &*self.stores.actions, &action, &outcome).await?;
        Ok(outcome)
    }

    /// Runs the command, the way that suits it.
    async fn ran(
        &self,
        job: &mut Job,
        subject: &Subject<'_>,
        image: Option<Arc<InUse>>,
        limit: Duration,
        directory: &Path,
    ) -> Result<Ran> {
        let attempt = self.workshop().attempt(job, subject, image, limit, directory).await?;
        let note = match attempt {
            Attempt::Done(Done { exit, directory }) => {
                return Ok(Ran { exit, directory, lower: None, note: None });
            }
            Attempt::Plain(note) => note,
        };
        let (exit, lower) = self.plain(job, subject, limit, directory).await?;
        Ok(Ran { exit, directory: directory.to_owned(), lower, note })
    }

    fn workshop(&self) -> Workshop<'_> {
        let Self { config, stores, sandbox, scratch, persistent: pool, .. } = self;
        Workshop { config, stores, sandbox, scratch, pool }
    }

    /// Runs a command in a process of its own.
    async fn plain(
        &self,
        job: &mut Job,
        subject: &Subject<'_>,
        limit: Duration,
        directory: &Path,
    ) -> Result<(Exit, Option<Lease>)> {
        let &Subject { command, root, places, image, .. } = subject;
        let protection = Protection { link: self.sandbox.protects_inputs(), owner: self.sandbox.owner() };
        let plan =
            Plan { root: root.clone(), places: places.clone(), exec: directory.join("exec"), protection };
        let Staged { places, lower } = stage(job, &self.stores, self.cache.as_ref(), plan).await?;
        job.note(|times| &mut times.input_fetch_completed);

        job.enter(|times| &mut times.execution_start);
        let writable = places.writable.into_iter().collect();
        let layers =
            lower.as_ref().map(|lower| self.scratch.seen_from_run(&lower.layers())).unwrap_or_default();
        let (usable, directory) = (self.config.usable.clone(), directory.to_owned());
        let image = image.map(Path::to_owned);
        let launch = Launch { directory, writable, lower: layers, image, limit, usable };
        let exit = run::run(job, &self.sandbox, command, launch).await?;
        job.note(|times| &mut times.execution_completed);
        job.metadata.usage = Some(run::usage(&exit));
        Ok((exit, lower))
    }

    /// The image that the action asks for.
    async fn image(&self, action: &Action, command: &Command) -> Result<Option<InUse>> {
        // Older clients have it in the command alone.
        let Some(wanted) = action.platform.clone().or_else(|| command.platform.clone()) else {
            return Ok(None);
        };
        let (images, offered) = (self.images.clone(), self.config.platform.clone());
        blocking(move || images::choose(&images, &wanted, &offered)).await
    }

    async fn collect(
        &self,
        job: &Job,
        command: Command,
        directory: &Path,
        lower: Option<Lease>,
        exit: &Exit,
    ) -> Result<Collected> {
        let (function, limits) = (job.action.function(), self.config.limits);
        let (directory, strict) = (directory.to_owned(), exit.ending == Ending::Code(0));
        blocking(move || {
            let layers = lower.as_ref().map(Lease::layers).unwrap_or_default();
            let failed = |error| Error::io("open the input root", error);
            let run = Root::open(&directory).map_err(failed)?;
            let exec = Root::over(&directory.join("exec"), &layers).map_err(failed)?;
            collect(&command, run, exec, function, limits, strict)
        })
        .await
    }
}

fn collect(
    command: &Command,
    run: Root,
    exec: Root,
    function: DigestFunction,
    limits: Limits,
    strict: bool,
) -> Result<Collected> {
    let (run, exec) = (Arc::new(run), Arc::new(exec));
    let found = Collected::default();
    let mut collector = Collector { command, function, limits, exec, strict, found, seen: 0 };
    collector.logs(&run)?;
    collector.outputs()?;
    Ok(collector.found)
}

fn outcome(
    job: &Job,
    collected: Collected,
    exit: &Exit,
    limit: Duration,
    usable: &mortar_sandbox::Limits,
) -> Outcome {
    let mut result = collected.result;
    result.exit_code = exit.ending.code();
    result.metadata = job.metadata.clone();
    let termination = match exit.ending {
        Ending::TimedOut => Termination::TimedOut { limit },
        Ending::Signal(_) | Ending::Exceeded { .. } | Ending::Code(_) | Ending::Cancelled => {
            Termination::Exited
        }
    };
    let message = run::explain(exit.ending, limit, usable);
    Outcome { result, cached: false, termination, message, server_logs: Vec::new() }
}
