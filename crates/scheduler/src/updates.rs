//! The way of updates to one client: a place for the latest progress and one for the end, so that a client that waits
//! costs little and one that reads slowly holds up nobody.

use crate::{Failure, Update};
use mortar_model::{ExecutionMetadata, Outcome, Stage};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// Both ends.
pub(crate) fn updates() -> (Teller, Listener) {
    let shared = Arc::new(Shared { told: Mutex::default(), news: Notify::new() });
    (Teller(shared.clone()), Listener(shared))
}

/// The actor's end. When it is dropped, the listener hears no more.
#[derive(Debug)]
pub(crate) struct Teller(Arc<Shared>);

/// The client's end.
#[derive(Debug)]
pub(crate) struct Listener(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    told: Mutex<Told>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Told {
    progress: Option<(Stage, Box<ExecutionMetadata>)>,
    end: Option<Result<Box<Outcome>, Failure>>,
    /// Nothing more is told.
    over: bool,
    /// Nobody listens.
    left: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("nothing panics while it holds this")
    }
}

impl Teller {
    /// Progress takes the place of what was not yet read.
    pub(crate) fn tell(&self, update: Update) {
        {
            let mut told = self.0.lock();
            match update {
                Update::Progress(stage, metadata) => told.progress = Some((stage, metadata)),
                Update::Done(end) => told.end = Some(end),
            }
        }
        self.0.news.notify_one();
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.lock().left
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.news.notify_one();
    }
}

impl Listener {
    /// The next update; none when there will be no more.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        loop {
            {
                let mut told = self.0.lock();
                if let Some((stage, metadata)) = told.progress.take() {
                    return Some(Update::Progress(stage, metadata));
                }
                if let Some(end) = told.end.take() {
                    return Some(Update::Done(end));
                }
                if told.over {
                    return None;
                }
            }
            self.0.news.notified().await;
        }
    }

    /// Nobody listens any more.
    pub(crate) fn leave(&self) {
        self.0.lock().left = true;
    }
}
