//! A worker's side of its conversation with a server, over channels: in one process they are all there is, elsewhere
//! `connect.rs` has a stream at their other end. What is taken on in one session can be carried over into the next.
//!
//! The loop never waits to send while there is something to hear: what is to be said waits in a queue, which is short,
//! since all of it is about the few actions that run.

use crate::{Phase, Shutdown, Worker, capacity, undelivered::Undelivered};
use mortar_model::{
    Blame, Context, Digest, Error, ExecutionMetadata, Kind, Outcome, Progress, Result, Stage,
    clock::since_epoch,
    image,
    session::{ExecutionId, FromWorker, Held, Hello, LogRequest, OLDEST_VERSION, Run, ToWorker, VERSION},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How often something is said until the server names an interval.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(5);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// We were asked to stop, and did.
    Shutdown,
    /// The server is gone.
    Lost,
    /// The server speaks another version.
    Incompatible,
    /// The worker has other images than it announced; the next session announces them.
    Outdated,
}

/// Serves one server until it goes away or we are asked to stop. Nothing runs any more when this returns.
pub async fn serve(
    worker: Worker,
    outgoing: mpsc::Sender<FromWorker>,
    incoming: mpsc::Receiver<ToWorker>,
    shutdown: Shutdown,
) -> SessionEnd {
    let mut attempts = Attempts::new(worker, false);
    let end = attempts.serve(outgoing, incoming, shutdown).await;
    attempts.stop().await;
    end
}

/// What a worker has taken on, over any number of sessions with a server.
pub(crate) struct Attempts {
    worker: Worker,
    /// Tells this run of the worker from others.
    process: String,
    /// The version that is offered, then the one that is spoken.
    version: u32,
    running: HashMap<ExecutionId, Running>,
    undelivered: Undelivered,
    tasks: JoinSet<(ExecutionId, Result<Outcome>)>,
    /// Requests for logs that wait for something to tell.
    readers: JoinSet<()>,
    reports: mpsc::UnboundedSender<FromWorker>,
    heard: mpsc::UnboundedReceiver<FromWorker>,
    unsaid: VecDeque<FromWorker>,
    phase: Phase,
    /// The images that were announced.
    images: Vec<String>,
    /// Whether what runs goes on in the next session.
    carries: bool,
}

struct Running {
    cancelled: CancellationToken,
    context: Context,
    action_digest: Digest,
}

impl Attempts {
    pub(crate) fn new(worker: Worker, carries: bool) -> Self {
        let (reports, heard) = mpsc::unbounded_channel();
        let began = since_epoch(SystemTime::now()).as_nanos();
        let process = format!("{}-{}-{began:x}", worker.config().name, std::process::id());
        Self {
            worker,
            process,
            version: VERSION,
            running: HashMap::new(),
            undelivered: Undelivered::default(),
            tasks: JoinSet::new(),
            readers: JoinSet::new(),
            reports,
            heard,
            unsaid: VecDeque::new(),
            phase: Phase::Serving,
            images: Vec::new(),
            carries,
        }
    }

    /// Offers this version from the next session on. The first knows nothing of what is carried over.
    pub(crate) async fn offer(&mut self, version: u32) {
        self.version = version;
        if version == OLDEST_VERSION {
            self.stop().await;
        }
    }

    /// The version that is offered, or was spoken last.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Whether nothing is carried over.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.undelivered.is_empty()
    }

    /// Stops what runs, and forgets what was not delivered.
    pub(crate) async fn stop(&mut self) {
        self.stop_all();
        while self.tasks.join_next().await.is_some() {}
        self.running.clear();
        self.undelivered = Undelivered::default();
    }

    /// One session. What runs at its end goes on.
    pub(crate) async fn serve(
        &mut self,
        outgoing: mpsc::Sender<FromWorker>,
        mut incoming: mpsc::Receiver<ToWorker>,
        mut shutdown: Shutdown,
    ) -> SessionEnd {
        self.begin().await;
        let mut heartbeat = ticks(FIRST_HEARTBEAT);
        loop {
            if self.phase > Phase::Serving && self.tasks.is_empty() && self.unsaid.is_empty() {
                return SessionEnd::Shutdown;
            }
            tokio::select! {
                permit = outgoing.reserve(), if !self.unsaid.is_empty() => match (permit, self.unsaid.pop_front()) {
                    (Ok(permit), Some(message)) => permit.send(message),
                    _ => return SessionEnd::Lost,
                },
                message = incoming.recv() => match message {
                    None => return SessionEnd::Lost,
                    Some(ToWorker::Welcome { version, heartbeat_interval }) => {
                        if !(OLDEST_VERSION..=VERSION).contains(&version) {
                            tracing::error!(theirs = version, ours = VERSION, "the server speaks another version");
                            return SessionEnd::Incompatible;
                        }
                        self.version = version;
                        heartbeat = ticks(heartbeat_interval / 2);
                    }
                    Some(message) => self.hear(message),
                },
                Some(report) = self.heard.recv() => self.unsaid.push_back(report),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.finish(ended),
                _ = heartbeat.tick() => {
                    if self.is_outdated() {
                        return SessionEnd::Outdated;
                    }
                    self.beat();
                }
                phase = shutdown.beyond(self.phase) => self.advance(phase),
            }
        }
    }

    /// Says who we are and what we hold, and then again how that ended which the server may not have heard.
    async fn begin(&mut self) {
        // Whoever asked in an earlier session asks again.
        self.readers.shutdown().await;
        self.unsaid.clear();
        while let Some(ended) = self.tasks.try_join_next() {
            self.finish(ended);
        }
        let heard = std::iter::from_fn(|| self.heard.try_recv().ok());
        let steps: Vec<_> = heard.filter(|report| !matches!(report, FromWorker::Log(_))).collect();
        self.unsaid.clear();
        self.images = self.worker.images();
        let hello = self.hello();
        self.unsaid.push_back(FromWorker::Hello(hello));
        self.unsaid.extend(self.undelivered.again());
        self.unsaid.extend(steps);
    }

    fn hello(&self) -> Hello {
        let (config, slots) = (self.worker.config(), self.worker.config().slots.max(1));
        let offered = config.platform.properties.iter().filter(|property| property.name == image::PROPERTY);
        let offered = offered.map(|property| property.value.clone());
        let running = self.running.iter().map(|(execution, running)| Held {
            execution: execution.clone(),
            context: running.context.clone(),
            action_digest: running.action_digest,
        });
        Hello {
            version: self.version,
            name: config.name.clone(),
            slots,
            platform: config.platform.clone(),
            capacity: capacity::of(config.capacity, slots),
            process: self.process.clone(),
            layers: vec![self.worker.layers().to_string()],
            images: self.images.iter().cloned().chain(offered).collect(),
            draining: self.phase > Phase::Serving,
            held: running.chain(self.undelivered.held()).collect(),
        }
    }

    fn hear(&mut self, message: ToWorker) {
        match message {
            ToWorker::Run(run) => self.start(*run),
            ToWorker::Cancel(execution) => self.cancel(&execution),
            ToWorker::Delivered(execution) => self.undelivered.delivered(&execution),
            ToWorker::Drain => self.advance(Phase::Draining.max(self.phase)),
            ToWorker::ReadLog(asked) => self.read(asked),
            ToWorker::Welcome { .. } | ToWorker::Heartbeat => {}
        }
    }

    fn start(&mut self, run: Run) {
        let execution = run.execution.clone();
        let slots = self.worker.config().slots.max(1);
        let refusal = if self.phase > Phase::Serving {
            Some("is shutting down".to_owned())
        } else if self.running.len() >= slots as usize {
            Some(format!("has all of its {slots} slots in use"))
        } else if self.running.contains_key(&execution) {
            Some(format!("runs execution `{execution}` already"))
        } else {
            None
        };
        if let Some(why) = refusal {
            let message = format!("worker `{}` {why}", self.worker.config().name);
            let retry_after = Some(Duration::from_millis(100));
            let outcome = Box::new(Err(Error::new(Kind::Unavailable { message, retry_after })));
            return self.unsaid.push_back(FromWorker::Finished { execution, outcome });
        }
        let cancelled = CancellationToken::new();
        let (context, action_digest) = (run.context.clone(), run.action_digest);
        let running = Running { cancelled: cancelled.clone(), context, action_digest };
        self.running.insert(execution.clone(), running);
        let progress = Arc::new(Reporter { execution: execution.clone(), reports: self.reports.clone() });
        let span = tracing::info_span!("execution", %execution, action = %run.action_digest);
        let worker = self.worker.clone();
        let task = async move {
            let _stop = cancelled.clone().drop_guard();
            // A defect in one execution is that one's end, not the session's.
            let attempt = tokio::spawn(async move { worker.run(run, progress, cancelled).await });
            let outcome = attempt.await;
            let panicked = |error| Err(Error::internal("the execution panicked").with_source(error));
            (execution, outcome.unwrap_or_else(panicked))
        };
        self.tasks.spawn(task.instrument(span));
    }

    /// Tells what a command has written, as soon as there is something to tell.
    fn read(&mut self, asked: LogRequest) {
        while self.readers.try_join_next().is_some() {}
        let (logs, reports) = (self.worker.logs().clone(), self.reports.clone());
        self.readers.spawn(async move {
            // It fails only where the session is over.
            reports.send(FromWorker::Log(logs.read(asked).await)).ok();
        });
    }

    fn cancel(&self, execution: &ExecutionId) {
        if let Some(running) = self.running.get(execution) {
            running.cancelled.cancel();
        }
    }

    fn stop_all(&self) {
        self.running.values().for_each(|running| running.cancelled.cancel());
    }

    fn finish(&mut self, ended: Result<(ExecutionId, Result<Outcome>), tokio::task::JoinError>) {
        // What it reported comes before its end.
        while let Ok(report) = self.heard.try_recv() {
            self.unsaid.push_back(report);
        }
        match ended {
            Ok((execution, outcome)) => {
                if let Err(error) = &outcome
                    && error.blame() == Blame::Server
                {
                    tracing::error!(%execution, "the execution failed: {error}");
                }
                if let Some(running) =
                    self.running.remove(&execution).filter(|_| self.version > OLDEST_VERSION)
                {
                    let (context, action_digest) = (running.context, running.action_digest);
                    let held = Held { execution: execution.clone(), context, action_digest };
                    self.undelivered.keep(held, &outcome);
                }
                self.unsaid.push_back(FromWorker::Finished { execution, outcome: Box::new(outcome) });
            }
            Err(error) => tracing::error!(%error, "a task of the session failed"),
        }
    }

    /// Whether there are other images now, and nothing would be lost with this session.
    fn is_outdated(&self) -> bool {
        let may_end = self.is_empty() || (self.carries && self.version > OLDEST_VERSION);
        self.phase == Phase::Serving
            && may_end
            && self.unsaid.is_empty()
            && self.worker.images() != self.images
    }

    fn beat(&mut self) {
        if self.unsaid.is_empty() {
            self.unsaid.push_back(FromWorker::Heartbeat);
        }
    }

    fn advance(&mut self, phase: Phase) {
        if self.phase == Phase::Serving {
            self.unsaid.push_back(FromWorker::Draining);
        }
        if phase == Phase::Aborting {
            self.stop_all();
        }
        self.phase = phase;
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

struct Reporter {
    execution: ExecutionId,
    reports: mpsc::UnboundedSender<FromWorker>,
}

impl Progress for Reporter {
    fn report(&self, _: Stage, metadata: &ExecutionMetadata) {
        let (execution, metadata) = (self.execution.clone(), metadata.clone());
        // It fails only where the session is over.
        self.reports.send(FromWorker::Progress { execution, metadata }).ok();
    }
}
