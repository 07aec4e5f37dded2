//! The processes that wait for more work. With those that are at work there are never more than the worker has slots:
//! to make room, the one goes that has waited longest. One that waits for too long goes by itself.

use super::{ask::Key, process::Process};
use crate::scratch::Scratch;
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// All persistent workers of one worker. Those that wait end with it.
#[derive(Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    patience: Duration,
    waiting: Mutex<Waiting>,
    scratch: Arc<Scratch>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The one that has waited longest stands first.
    idle: Vec<(Process, Instant)>,
    /// Processes that are at work, or are about to be.
    busy: usize,
    /// Whether a task sees to those that wait too long.
    is_watched: bool,
}

/// That a process is at work.
#[derive(Debug)]
pub struct Turn(Arc<Shared>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.waiting.lock().busy -= 1;
    }
}

impl Pool {
    /// At most so many processes, none of which waits longer than that.
    pub fn new(most: u32, patience: Duration, scratch: Arc<Scratch>) -> Self {
        let (most, waiting) = (most as usize, Mutex::default());
        Self(Arc::new(Shared { most, patience, waiting, scratch }))
    }

    /// Announces that a process is to work; one that waits for such work is handed over.
    pub async fn take(&self, key: &Key) -> (Turn, Option<Process>) {
        let (found, gone) = {
            let mut waiting = self.0.waiting.lock();
            waiting.busy += 1;
            let mut gone = waiting.remove(|process| !process.is_alive());
            // The last used of them: what it needs is most likely still in memory.
            let found = waiting.idle.iter().rposition(|(process, _)| process.key == *key);
            let found = found.map(|index| waiting.idle.remove(index).0);
            gone.extend(waiting.beyond(self.0.most));
            (found, gone)
        };
        let turn = Turn(Arc::clone(&self.0));
        self.end(gone).await;
        (turn, found)
    }

    /// Keeps a process for more work, whose turn is about to end.
    pub async fn keep(&self, process: Process) {
        let (gone, watch) = {
            let mut waiting = self.0.waiting.lock();
            waiting.idle.push((process, Instant::now()));
            // This one is no longer at work.
            let room = self.0.most + 1;
            let gone = waiting.beyond(room);
            (gone, !std::mem::replace(&mut waiting.is_watched, true))
        };
        if watch {
            tokio::spawn(watch_over(Arc::downgrade(&self.0)));
        }
        self.end(gone).await;
    }

    /// How many processes wait.
    pub fn idle(&self) -> usize {
        self.0.waiting.lock().idle.len()
    }

    async fn end(&self, gone: Vec<Process>) {
        for process in gone {
            // What it ended with is of no interest.
            process.end(&self.0.scratch).await.ok();
        }
    }
}

impl Waiting {
    fn remove(&mut self, is_gone: impl Fn(&Process) -> bool) -> Vec<Process> {
        let (gone, left) =
            std::mem::take(&mut self.idle).into_iter().partition(|(process, _)| is_gone(process));
        self.idle = left;
        gone.into_iter().map(|(process, _): (Process, Instant)| process).collect()
    }

    /// Those that are too many.
    fn beyond(&mut self, most: usize) -> Vec<Process> {
        let too_many = (self.idle.len() + self.busy).saturating_sub(most).min(self.idle.len());
        self.idle.drain(..too_many).map(|(process, _)| process).collect()
    }
}

/// Ends processes that have waited too long, as long as there are any that wait.
async fn watch_over(shared: Weak<Shared>) {
    loop {
        let (gone, next) = {
            let Some(shared) = shared.upgrade() else { return };
            let mut waiting = shared.waiting.lock();
            let long_ago = |since: &Instant| since.elapsed() >= shared.patience;
            let gone = waiting.idle.iter().take_while(|(_, since)| long_ago(since)).count();
            let gone: Vec<_> = waiting.idle.drain(..gone).map(|(process, _)| process).collect();
            let next = waiting.idle.first().map(|(_, since)| *since + shared.patience);
            waiting.is_watched = next.is_some();
            (gone, next)
        };
        for process in gone {
            let Some(scratch) = shared.upgrade().map(|shared| Arc::clone(&shared.scratch)) else { return };
            process.end(&scratch).await.ok();
        }
        match next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => return,
        }
    }
}
