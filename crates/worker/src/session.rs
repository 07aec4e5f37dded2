//! A worker's side of its conversation with a server, over channels: in one process they are all there is, elsewhere
//! `connect.rs` has a stream at their other end.
//!
//! The loop never waits to send while there is something to hear: what is to be said waits in a queue, which is short,
//! since all of it is about the few actions that run.

use crate::{Phase, Shutdown, Worker};
use mortar_model::{
    Blame, Error, ExecutionMetadata, Kind, Outcome, Progress, Result, Stage,
    session::{ExecutionId, FromWorker, Hello, Run, ToWorker, VERSION},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
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
    /// The server is gone. What ran for it was stopped.
    Lost,
    /// The server speaks another version.
    Incompatible,
}

/// Serves one server until it goes away or we are asked to stop. Nothing runs any more when this returns.
pub async fn serve(
    worker: Worker,
    outgoing: mpsc::Sender<FromWorker>,
    incoming: mpsc::Receiver<ToWorker>,
    shutdown: Shutdown,
) -> SessionEnd {
    let (reports, heard) = mpsc::unbounded_channel();
    let mut session = Session {
        unsaid: VecDeque::from([FromWorker::Hello(hello(&worker))]),
        worker,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        reports,
        phase: Phase::Serving,
    };
    let end = session.converse(&outgoing, incoming, heard, shutdown).await;
    session.stop_all();
    while session.tasks.join_next().await.is_some() {}
    end
}

fn hello(worker: &Worker) -> Hello {
    let config = worker.config();
    Hello {
        version: VERSION,
        name: config.name.clone(),
        slots: config.slots.max(1),
        platform: config.platform.clone(),
    }
}

struct Session {
    worker: Worker,
    running: HashMap<ExecutionId, CancellationToken>,
    tasks: JoinSet<(ExecutionId, Result<Outcome>)>,
    reports: mpsc::UnboundedSender<FromWorker>,
    unsaid: VecDeque<FromWorker>,
    phase: Phase,
}

impl Session {
    async fn converse(
        &mut self,
        outgoing: &mpsc::Sender<FromWorker>,
        mut incoming: mpsc::Receiver<ToWorker>,
        mut heard: mpsc::UnboundedReceiver<FromWorker>,
        mut shutdown: Shutdown,
    ) -> SessionEnd {
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
                    Some(ToWorker::Welcome { version, .. }) if version != VERSION => {
                        tracing::error!(theirs = version, ours = VERSION, "the server speaks another version");
                        return SessionEnd::Incompatible;
                    }
                    Some(ToWorker::Welcome { heartbeat_interval, .. }) => heartbeat = ticks(heartbeat_interval / 2),
                    Some(ToWorker::Run(run)) => self.start(*run),
                    Some(ToWorker::Cancel(execution)) => self.cancel(&execution),
                    Some(ToWorker::Heartbeat) => {}
                },
                Some(report) = heard.recv() => self.unsaid.push_back(report),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    while let Ok(report) = heard.try_recv() {
                        self.unsaid.push_back(report);
                    }
                    self.finish(ended);
                }
                _ = heartbeat.tick() => self.beat(),
                phase = shutdown.beyond(self.phase) => self.advance(phase),
            }
        }
    }

    fn start(&mut self, run: Run) {
        let execution = run.execution.clone();
        let refusal = if self.phase > Phase::Serving {
            Some("is shutting down".to_owned())
        } else if self.running.len() >= self.worker.config().slots.max(1) as usize {
            Some(format!("has all of its {} slots in use", self.worker.config().slots.max(1)))
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
        self.running.insert(execution.clone(), cancelled.clone());
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

    fn cancel(&self, execution: &ExecutionId) {
        if let Some(cancelled) = self.running.get(execution) {
            cancelled.cancel();
        }
    }

    fn stop_all(&self) {
        self.running.values().for_each(CancellationToken::cancel);
    }

    fn finish(&mut self, ended: Result<(ExecutionId, Result<Outcome>), tokio::task::JoinError>) {
        match ended {
            Ok((execution, outcome)) => {
                self.running.remove(&execution);
                if let Err(error) = &outcome
                    && error.blame() == Blame::Server
                {
                    tracing::error!(%execution, "the execution failed: {error}");
                }
                self.unsaid.push_back(FromWorker::Finished { execution, outcome: Box::new(outcome) });
            }
            Err(error) => tracing::error!(%error, "a task of the session failed"),
        }
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
