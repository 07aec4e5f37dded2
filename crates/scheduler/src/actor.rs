//! The task that owns the [`State`]: turns messages and time into events, and effects into messages. It waits for
//! nothing but its own inputs; every send is a try, so that no client and no worker can hold it up.

use crate::{
    Config, PoolBook, Status, Submission, Update,
    state::{Effect, Event, Loss, State, Submitted, TicketId, Wish, WorkerId},
    updates::Teller,
};
use mortar_model::{
    Clock, Context,
    clock::since_epoch,
    session::{FromWorker, Hello, ToWorker},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::{AbortHandle, JoinSet},
};
use tracing::{info, warn};

/// Events of all workers on their way to the actor.
const HEARD: usize = 1024;

/// What the handles ask for.
#[derive(Debug)]
pub(crate) enum Request {
    Submit { ticket: TicketId, context: Context, submission: Submission, updates: Teller },
    Attach { hello: Hello, commands: mpsc::Sender<ToWorker>, reports: mpsc::Receiver<FromWorker> },
    Tend { worker: String, wish: Wish, known: oneshot::Sender<bool> },
    Status(oneshot::Sender<Status>),
    Shutdown { drain: Duration, done: oneshot::Sender<()> },
}

/// That a client no longer waits.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) ticket: TicketId,
    /// What ran for it alone is to end, whatever the policy.
    pub(crate) unwanted: bool,
}

/// The owner of the state.
pub(crate) struct Actor {
    state: State,
    clock: Arc<dyn Clock>,
    book: Arc<dyn PoolBook>,
    intake: mpsc::Receiver<Request>,
    left: mpsc::UnboundedReceiver<Left>,
    heard: mpsc::Receiver<Event>,
    /// For the forwarders. Kept here, so that `heard` never ends.
    hear: mpsc::Sender<Event>,
    clients: HashMap<TicketId, Teller>,
    workers: HashMap<WorkerId, Session>,
    forwarders: JoinSet<()>,
    next_worker: u64,
    closers: Vec<oneshot::Sender<()>>,
}

struct Session {
    name: String,
    commands: mpsc::Sender<ToWorker>,
    forwarder: AbortHandle,
}

impl Actor {
    pub(crate) fn new(
        config: Config,
        clock: Arc<dyn Clock>,
        book: Arc<dyn PoolBook>,
        intake: mpsc::Receiver<Request>,
        left: mpsc::UnboundedReceiver<Left>,
    ) -> Self {
        let (hear, heard) = mpsc::channel(HEARD);
        // A worker that is still busy for an earlier run of this server must not take the new one's ids for its own.
        let name = format!("{:x}", since_epoch(clock.wall()).as_nanos());
        Self {
            state: State::new(clock.now(), config, name, book.read()),
            clock,
            book,
            intake,
            left,
            heard,
            hear,
            clients: HashMap::new(),
            workers: HashMap::new(),
            forwarders: JoinSet::new(),
            next_worker: 1,
            closers: Vec::new(),
        }
    }

    /// Runs until closed and done.
    pub(crate) async fn run(mut self) {
        let mut orphaned = false;
        while !self.state.is_over() {
            let deadline = self.state.next_deadline();
            tokio::select! {
                request = self.intake.recv(), if !orphaned => match request {
                    Some(request) => self.serve(request),
                    None => {
                        orphaned = true;
                        self.apply(Event::Close { drain: Duration::ZERO });
                    }
                },
                Some(left) = self.left.recv() => self.leave(left),
                Some(event) = self.heard.recv() => self.apply(event),
                () = sleep_until(&*self.clock, deadline) => self.tick(),
            }
        }
        self.workers.clear();
        for done in self.closers.drain(..) {
            // A caller that no longer waits need not know.
            let _ = done.send(());
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Submit { ticket, context, submission, updates } => {
                // The client may have left before its submission arrived; its leave is then through already.
                if !updates.is_idle() {
                    self.clients.insert(ticket, updates);
                    let queued = self.clock.wall();
                    self.apply(Event::Submit(Submitted { ticket, context, submission, queued }));
                }
            }
            Request::Attach { hello, commands, reports } => self.attach(hello, commands, reports),
            Request::Tend { worker, wish, known } => {
                // A caller that no longer waits need not know.
                let _ = known.send(self.state.knows_worker(&worker));
                self.apply(Event::Tend { worker, wish });
            }
            Request::Status(answer) => {
                // A caller that no longer waits need not know.
                let _ = answer.send(self.state.status(self.clock.now()));
            }
            Request::Shutdown { drain, done } => {
                self.closers.push(done);
                self.apply(Event::Close { drain });
            }
        }
    }

    fn attach(
        &mut self,
        hello: Hello,
        commands: mpsc::Sender<ToWorker>,
        reports: mpsc::Receiver<FromWorker>,
    ) {
        while self.forwarders.try_join_next().is_some() {}
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        info!(worker = hello.name, slots = hello.slots, "worker connected");
        let forwarder = self.forwarders.spawn(forward(worker, reports, self.hear.clone()));
        self.workers.insert(worker, Session { name: hello.name.clone(), commands, forwarder });
        self.apply(Event::Join { worker, hello });
    }

    fn leave(&mut self, Left { ticket, unwanted }: Left) {
        self.clients.remove(&ticket);
        self.apply(if unwanted { Event::Cancel(ticket) } else { Event::Leave(ticket) });
    }

    /// What workers said before the deadline counts before it, however late it is read.
    fn tick(&mut self) {
        while let Ok(event) = self.heard.try_recv() {
            self.apply(event);
        }
        self.apply(Event::Tick);
    }

    /// Takes an event in, carries the effects out, and goes on with what came of that.
    fn apply(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.state.apply(self.clock.now(), event) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Tell { ticket, update } => {
                self.tell(ticket, update);
                None
            }
            Effect::Send { worker, message } => self.send(worker, *message),
            Effect::Disconnect { worker, loss } => {
                if let Some(session) = self.workers.remove(&worker) {
                    warn!(worker = session.name, "worker lost: {loss}");
                    session.forwarder.abort();
                }
                None
            }
            Effect::Remember(pools) => {
                self.book.keep(&pools);
                None
            }
        }
    }

    /// A client that has left is told nothing more; how it left comes by `left`.
    fn tell(&mut self, ticket: TicketId, update: Update) {
        let over = matches!(update, Update::Done(_));
        let Some(client) = self.clients.get(&ticket) else { return };
        let gone = client.is_idle();
        client.tell(update);
        if over || gone {
            self.clients.remove(&ticket);
        }
    }

    fn send(&mut self, worker: WorkerId, message: ToWorker) -> Option<Event> {
        let session = self.workers.get(&worker)?;
        // What is not confirmed is told again.
        let needed = !matches!(message, ToWorker::Heartbeat | ToWorker::Delivered(_));
        let loss = match session.commands.try_send(message) {
            Ok(()) => return None,
            Err(TrySendError::Closed(_)) => Loss::Disconnected,
            Err(TrySendError::Full(_)) if needed => Loss::Unresponsive,
            // Unread messages are a sign of life as good as another.
            Err(TrySendError::Full(_)) => return None,
        };
        Some(Event::Lost { worker, loss })
    }
}

/// Passes on what a worker says, in order, until it says no more.
async fn forward(worker: WorkerId, mut reports: mpsc::Receiver<FromWorker>, hear: mpsc::Sender<Event>) {
    while let Some(message) = reports.recv().await {
        if hear.send(Event::Heard { worker, message: Box::new(message) }).await.is_err() {
            return;
        }
    }
    // Without an actor there is nobody to tell.
    let _ = hear.send(Event::Lost { worker, loss: Loss::Disconnected }).await;
}

async fn sleep_until(clock: &dyn Clock, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_duration_since(clock.now())).await,
        None => std::future::pending().await,
    }
}
