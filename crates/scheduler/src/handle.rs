//! The ends that others hold: [`Scheduler`] for all, [`Ticket`] for a client that waits, [`WorkerLink`] for a worker's
//! session. They only pass messages; the actor does the rest.

use crate::{
    Config, Failure, KnownPool, Status, Submission, Update, Wish,
    actor::{Actor, Left, Request},
    state::TicketId,
    updates::{self, Listener},
};
use mortar_model::{
    Clock, Context, Error, Kind, Result,
    context::Operation,
    session::{self, FromWorker, Hello, ToWorker},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, info_span};

/// Requests on their way to the actor; submitting waits while there are more.
const REQUESTS: usize = 1024;
/// Reports of one worker on their way to the actor.
const REPORTS: usize = 64;

/// A handle to the scheduler; cheap to clone. When the last one is dropped, the scheduler closes at once.
#[derive(Clone, Debug)]
pub struct Scheduler {
    requests: mpsc::Sender<Request>,
    leaves: mpsc::UnboundedSender<Left>,
    tickets: Arc<AtomicU64>,
    config: Arc<Config>,
}

impl Scheduler {
    /// Starts a scheduler on the current runtime that knows nothing from before.
    pub fn start(config: Config, clock: Arc<dyn Clock>) -> Self {
        Self::resume(config, clock, Arc::new(NoBook))
    }

    /// Starts a scheduler on the current runtime that knows the pools in `book`, and keeps them there.
    pub fn resume(config: Config, clock: Arc<dyn Clock>, book: Arc<dyn PoolBook>) -> Self {
        let (requests, intake) = mpsc::channel(REQUESTS);
        let (leaves, left) = mpsc::unbounded_channel();
        let config = Arc::new(config);
        let actor = Actor::new((*config).clone(), clock, book, intake, left);
        tokio::spawn(actor.run().instrument(info_span!("scheduler")));
        Self { requests, leaves, tickets: Arc::new(AtomicU64::new(1)), config }
    }

    /// The limits in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Queues an action, or joins an identical one in flight. Whether it was accepted is told by the ticket; an error
    /// here means that the scheduler has stopped.
    pub async fn submit(&self, context: Context, submission: Submission) -> Result<Ticket> {
        let id = TicketId(self.tickets.fetch_add(1, Ordering::Relaxed));
        let (sender, updates) = updates::updates();
        // Made before it is sent, so that a caller that gives up while waiting for room leaves nothing behind.
        let operation = context.operation.clone();
        let ticket = Ticket { id, updates, leaves: self.leaves.clone(), operation, over: false };
        let request = Request::Submit { ticket: id, context, submission, updates: sender };
        self.requests.send(request).await.map_err(|_| stopped())?;
        Ok(ticket)
    }

    /// Begins the session of a worker. The first command is the welcome.
    pub async fn attach(&self, hello: Hello) -> Result<WorkerLink> {
        check(&hello)?;
        // Room for a run, a cancel and a confirmation of each slot and of what it brings along, and some talk; a worker
        // that lets more lie is given up.
        let (sender, commands) = mpsc::channel(3 * hello.slots as usize + hello.held.len() + 16);
        let (reports, receiver) = mpsc::channel(REPORTS);
        let request = Request::Attach { hello, commands: sender, reports: receiver };
        self.requests.send(request).await.map_err(|_| stopped())?;
        Ok(WorkerLink { commands, reports })
    }

    /// Lets the workers of this name finish what they run and take nothing new, until they are resumed; also those of
    /// that name that come later.
    pub async fn pause(&self, worker: &str) -> Result<()> {
        self.tend(worker, Wish::Pause).await
    }

    /// Lets the workers of this name take work again.
    pub async fn resume_worker(&self, worker: &str) -> Result<()> {
        self.tend(worker, Wish::Resume).await
    }

    /// Lets the workers of this name finish what they run, and leave.
    pub async fn drain(&self, worker: &str) -> Result<()> {
        self.tend(worker, Wish::Drain).await
    }

    async fn tend(&self, worker: &str, wish: Wish) -> Result<()> {
        let (answer, known) = oneshot::channel();
        let request = Request::Tend { worker: worker.to_owned(), wish, known: answer };
        self.requests.send(request).await.map_err(|_| stopped())?;
        match known.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::not_found("worker", worker)),
            Err(_) => Err(stopped()),
        }
    }

    /// What is going on. Empty, and closing, once the scheduler has stopped.
    pub async fn status(&self) -> Status {
        let (answer, status) = oneshot::channel();
        let asked = self.requests.send(Request::Status(answer)).await.is_ok();
        let status = if asked { status.await.ok() } else { None };
        status.unwrap_or_else(|| Status { closing: true, ..Status::default() })
    }

    /// Takes nothing new, refuses what is queued, gives what runs `drain` to end and cancels the rest. Returns when
    /// the scheduler has stopped.
    pub async fn shutdown(&self, drain: Duration) {
        let (done, over) = oneshot::channel();
        if self.requests.send(Request::Shutdown { drain, done }).await.is_ok() {
            // An error means that the actor went before it could answer, which is what was asked for.
            let _ = over.await;
        }
    }
}

/// A client's wait for one action. Dropping it means that the client left.
#[derive(Debug)]
pub struct Ticket {
    id: TicketId,
    updates: Listener,
    leaves: mpsc::UnboundedSender<Left>,
    operation: Option<Arc<Operation>>,
    over: bool,
}

impl Ticket {
    /// The next update. Dropping the future loses nothing. After `Done` there are none; asking again gives an error.
    pub async fn next(&mut self) -> Update {
        let update = self.updates.next().await;
        let update = update.unwrap_or_else(|| Update::Done(Err(Failure::from(stopped()))));
        self.over |= matches!(update, Update::Done(_));
        update
    }
}

/// Clients go by dropping a future, where nothing can be awaited; so a leave travels on a channel of its own that
/// never makes anyone wait. It holds at most one entry a ticket.
impl Drop for Ticket {
    fn drop(&mut self) {
        // First, so that an actor that sees the leave before the submission recognises the latter as void.
        self.updates.leave();
        if !self.over {
            // Without an actor there is nobody to tell.
            let unwanted = self.operation.as_ref().is_some_and(|operation| operation.unwanted.is_set());
            let _ = self.leaves.send(Left { ticket: self.id, unwanted });
        }
    }
}

/// The server's end of a worker's session. Drop it when the connection ends: the worker is then lost, and what it ran
/// is run elsewhere. `commands` ends when the scheduler gives the worker up or stops.
#[derive(Debug)]
pub struct WorkerLink {
    /// What the worker is to do.
    pub commands: mpsc::Receiver<ToWorker>,
    /// What the worker tells; the session ends when all senders are dropped.
    pub reports: mpsc::Sender<FromWorker>,
}

/// Where the pools are kept that were seen, for after a restart.
pub trait PoolBook: Send + Sync {
    /// Those that were kept.
    fn read(&self) -> Vec<KnownPool>;
    /// Keeps these, in place of what was kept; the last was seen just now. Must not make its caller wait.
    fn keep(&self, pools: &[KnownPool]);
}

struct NoBook;

impl PoolBook for NoBook {
    fn read(&self) -> Vec<KnownPool> {
        Vec::new()
    }

    fn keep(&self, _: &[KnownPool]) {}
}

fn check(hello: &Hello) -> Result<()> {
    if !(session::OLDEST_VERSION..=session::VERSION).contains(&hello.version) {
        let message = format!(
            "worker `{}` speaks version {} of the session protocol; this server speaks versions {} to {}",
            hello.name,
            hello.version,
            session::OLDEST_VERSION,
            session::VERSION
        );
        let error = Error::new(Kind::FailedPrecondition { message });
        return Err(error.hint("run the same release of mortar on the worker and on the server"));
    }
    if hello.slots == 0 {
        let message = format!("worker `{}` offers 0 slots; at least 1 is needed", hello.name);
        return Err(Error::invalid("slots", message));
    }
    Ok(())
}

fn stopped() -> Error {
    Error::new(Kind::Unavailable { message: "the scheduler has stopped".to_owned(), retry_after: None })
}
