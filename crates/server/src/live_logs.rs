//! Who runs what, and so whom to ask what a command has written by now. Each conversation with a worker goes through a
//! [`Session`], which hears what the worker is given and gives back, asks it in between, and keeps its answers from the
//! scheduler. Nothing of the logs is kept here.

use async_trait::async_trait;
use mortar_model::{
    Context, Digest, Error, InstanceName, Kind, Result,
    session::{ExecutionId, FromWorker, Hello, LOGS_SINCE, Log, LogPiece, LogRequest, ToWorker},
};
use mortar_scheduler::{Scheduler, WorkerLink};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Requests to one worker that wait for their turn on its stream.
const ASKED: usize = 16;
/// Requests to one worker that are not answered; those of readers who left count until then.
const UNANSWERED: usize = 1_024;

/// All workers, as far as logs go. Clones are the same.
#[derive(Clone, Default)]
pub struct LiveLogs(Arc<Inner>);

#[derive(Default)]
struct Inner {
    running: Mutex<Running>,
    requests: AtomicU64,
}

/// Attempts that run, and how to find those of an action.
#[derive(Default)]
struct Running {
    attempts: HashMap<ExecutionId, Attempt>,
    of_action: HashMap<(InstanceName, Digest), Vec<ExecutionId>>,
}

struct Attempt {
    worker: Arc<Worker>,
    context: Context,
    action_digest: Digest,
}

/// One worker's side, for those who ask.
struct Worker {
    name: String,
    version: u32,
    asks: mpsc::Sender<ToWorker>,
    unanswered: Mutex<HashMap<u64, oneshot::Sender<LogPiece>>>,
}

/// The server's end of a worker's session: as the scheduler's link, and logs can be read through it.
pub struct Session {
    link: WorkerLink,
    logs: LiveLogs,
    worker: Arc<Worker>,
    asked: mpsc::Receiver<ToWorker>,
    /// What it runs.
    held: Vec<ExecutionId>,
}

impl LiveLogs {
    /// Begins the session of a worker.
    pub async fn attach(&self, scheduler: &Scheduler, hello: Hello) -> Result<Session> {
        let (asks, asked) = mpsc::channel(ASKED);
        let (name, version) = (hello.name.clone(), hello.version);
        let worker = Arc::new(Worker { name, version, asks, unanswered: Mutex::default() });
        let held = hello.held.clone();
        let link = scheduler.attach(hello).await?;
        let mut session = Session { link, logs: self.clone(), worker, asked, held: Vec::new() };
        for held in held {
            session.holds(held.execution, held.context, held.action_digest);
        }
        Ok(session)
    }

    /// The attempt that is made for this operation, or for another that asks for the same and shares it.
    fn find(&self, context: &Context, action: Digest) -> Option<(ExecutionId, Arc<Worker>)> {
        let running = self.0.running.lock();
        let of_action = running.of_action.get(&(context.instance.clone(), action))?;
        let name = |context: &Context| context.operation.as_ref().map(|operation| operation.name.clone());
        let own = |id: &&ExecutionId| {
            running.attempts.get(*id).is_some_and(|attempt| name(&attempt.context) == name(context))
        };
        let id = of_action.iter().rev().find(own).or(of_action.last())?;
        running.attempts.get(id).map(|attempt| (id.clone(), attempt.worker.clone()))
    }
}

impl Running {
    fn forget(&mut self, execution: &ExecutionId) {
        let Some(attempt) = self.attempts.remove(execution) else { return };
        let action = (attempt.context.instance, attempt.action_digest);
        if let Some(of_action) = self.of_action.get_mut(&action) {
            of_action.retain(|known| known != execution);
            if of_action.is_empty() {
                self.of_action.remove(&action);
            }
        }
    }
}

impl Session {
    /// What the worker is to do next; none once the scheduler has given it up. Dropping the future loses nothing.
    pub async fn command(&mut self) -> Option<ToWorker> {
        tokio::select! {
            command = self.link.commands.recv() => {
                if let Some(ToWorker::Run(run)) = &command {
                    self.holds(run.execution.clone(), run.context.clone(), run.action_digest);
                }
                command
            }
            // Never over before the session is: we hold the other end.
            asked = self.asked.recv() => asked,
        }
    }

    /// Takes in what the worker says. False once the scheduler hears no more of it.
    pub async fn report(&mut self, report: FromWorker) -> bool {
        let report = match report {
            FromWorker::Log(piece) => {
                let waits = self.worker.unanswered.lock().remove(&piece.request);
                // A reader that left needs no answer.
                waits.map(|reader| reader.send(piece));
                FromWorker::Heartbeat
            }
            FromWorker::Finished { ref execution, .. } => {
                self.held.retain(|held| held != execution);
                self.logs.forget_of(&self.worker, execution);
                report
            }
            report => report,
        };
        self.link.reports.send(report).await.is_ok()
    }

    fn holds(&mut self, execution: ExecutionId, context: Context, action_digest: Digest) {
        let mut running = self.logs.0.running.lock();
        // It may be of a session that this one takes the place of.
        running.forget(&execution);
        let action = (context.instance.clone(), action_digest);
        running.of_action.entry(action).or_default().push(execution.clone());
        let worker = self.worker.clone();
        running.attempts.insert(execution.clone(), Attempt { worker, context, action_digest });
        self.held.push(execution);
    }
}

impl LiveLogs {
    /// Forgets an attempt, unless another session has it by now.
    fn forget_of(&self, worker: &Arc<Worker>, execution: &ExecutionId) {
        let mut running = self.0.running.lock();
        if running.attempts.get(execution).is_some_and(|attempt| Arc::ptr_eq(&attempt.worker, worker)) {
            running.forget(execution);
        }
    }
}

/// Sessions end by being dropped, as their streams do. Whoever still waits hears that there is nobody to ask.
impl Drop for Session {
    fn drop(&mut self) {
        for execution in &self.held {
            self.logs.forget_of(&self.worker, execution);
        }
        // In this order, so that nobody who asks meanwhile waits for an answer.
        self.asked.close();
        self.worker.unanswered.lock().clear();
    }
}

#[async_trait]
impl mortar_services::LiveLogs for LiveLogs {
    async fn read(
        &self,
        context: &Context,
        action: Digest,
        log: Log,
        (offset, limit): (u64, u64),
    ) -> Result<Option<(ExecutionId, LogPiece)>> {
        let Some((execution, worker)) = self.find(context, action) else { return Ok(None) };
        if worker.version < LOGS_SINCE {
            return Err(too_old(&worker));
        }
        let request = self.0.requests.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut unanswered = worker.unanswered.lock();
            if unanswered.len() >= UNANSWERED {
                return Err(too_many(&worker));
            }
            unanswered.insert(request, sender);
        }
        let asked = LogRequest { request, execution: execution.clone(), log, offset, limit };
        if worker.asks.send(ToWorker::ReadLog(asked)).await.is_err() {
            return Ok(None);
        }
        // An error means that its session ended.
        Ok(answer.await.ok().map(|piece| (execution, piece)))
    }
}

fn too_old(worker: &Worker) -> Error {
    let message = format!(
        "worker `{}` speaks version {} of the session protocol; what its commands write can be read while they run \
         since version {LOGS_SINCE}",
        worker.name, worker.version
    );
    let hint = "its release of mortar is older than the server's; the result will have the log";
    Error::new(Kind::FailedPrecondition { message }).hint(hint)
}

fn too_many(worker: &Worker) -> Error {
    let message = format!("{UNANSWERED} requests for logs wait for worker `{}`", worker.name);
    Error::new(Kind::ResourceExhausted { message, retry_after: Some(Duration::from_secs(1)) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mortar_model::{DigestFunction, SystemClock, session::Held};
    use mortar_scheduler::Config;
    use mortar_services::LiveLogs as _;

    fn action() -> Digest {
        Digest::of(DigestFunction::Sha256, b"action")
    }

    /// The session of a worker that runs the action.
    async fn session(logs: &LiveLogs, version: u32) -> (Scheduler, Session) {
        let scheduler = Scheduler::start(Config::default(), Arc::new(SystemClock));
        let execution = ExecutionId("1".into());
        let held = vec![Held { execution, context: Context::default(), action_digest: action() }];
        let hello =
            Hello { version, name: "w".into(), slots: 1, process: "p".into(), held, ..Hello::default() };
        let session = logs.attach(&scheduler, hello).await.unwrap();
        (scheduler, session)
    }

    /// The next request that the worker gets.
    async fn asked(session: &mut Session) -> LogRequest {
        loop {
            if let ToWorker::ReadLog(asked) = session.command().await.unwrap() {
                return asked;
            }
        }
    }

    fn read(logs: &LiveLogs) -> tokio::task::JoinHandle<Result<Option<(ExecutionId, LogPiece)>>> {
        let logs = logs.clone();
        tokio::spawn(async move { logs.read(&Context::default(), action(), Log::Stderr, (5, 9)).await })
    }

    #[tokio::test]
    async fn whoever_runs_it_is_asked_and_answers() {
        let logs = LiveLogs::default();
        assert_eq!(read(&logs).await.unwrap().unwrap(), None, "nobody runs it");
        let (_scheduler, mut session) = session(&logs, LOGS_SINCE).await;
        let [one, other] = [read(&logs), read(&logs)];
        let first = asked(&mut session).await;
        assert_eq!((first.log, first.offset, first.limit, &*first.execution.0), (Log::Stderr, 5, 9, "1"));
        let second = asked(&mut session).await;
        for request in [second.request, first.request, 77] {
            let piece = LogPiece { request, data: "text".into(), size: 9, over: false };
            assert!(session.report(FromWorker::Log(piece)).await);
        }
        for reading in [one, other] {
            let (execution, piece) = reading.await.unwrap().unwrap().unwrap();
            assert_eq!((&*execution.0, &piece.data[..]), ("1", &b"text"[..]));
        }
        let outcome = Box::new(Err(Error::internal("broken")));
        let finished = FromWorker::Finished { execution: ExecutionId("1".into()), outcome };
        assert!(session.report(finished).await);
        assert_eq!(read(&logs).await.unwrap().unwrap(), None, "it is over");
    }

    #[tokio::test]
    async fn with_the_session_goes_who_could_answer() {
        let logs = LiveLogs::default();
        let (_scheduler, mut session) = session(&logs, LOGS_SINCE).await;
        let waits = read(&logs);
        asked(&mut session).await;
        drop(session);
        assert_eq!(waits.await.unwrap().unwrap(), None);
        assert!(logs.0.running.lock().attempts.is_empty() && logs.0.running.lock().of_action.is_empty());
    }

    #[tokio::test]
    async fn an_older_worker_is_named() {
        let logs = LiveLogs::default();
        let (_scheduler, _session) = session(&logs, LOGS_SINCE - 1).await;
        let refused = read(&logs).await.unwrap().unwrap_err();
        assert!(matches!(refused.kind(), Kind::FailedPrecondition { .. }));
        assert!(refused.to_string().contains("worker `w` speaks version 2"), "{refused}");
    }
}
