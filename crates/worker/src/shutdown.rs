//! How a worker is asked to stop: first to finish what runs, then to leave it.

use tokio::sync::watch;

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not begun.
    #[default]
    Serving,
    /// Finish what runs, take nothing new.
    Draining,
    /// Stop what runs.
    Aborting,
}

/// Asks for the shutdown. Where it is dropped, nobody will.
#[derive(Debug)]
pub struct ShutdownHandle(watch::Sender<Phase>);

/// Hears of it.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// Both ends.
pub fn shutdown() -> (ShutdownHandle, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (ShutdownHandle(sender), Shutdown(receiver))
}

impl ShutdownHandle {
    /// Finish what runs, take nothing new.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Stop what runs.
    pub fn abort(&self) {
        self.advance(Phase::Aborting);
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }
}

impl Shutdown {
    /// How far it has come.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until it has come further than `seen`; for ever if it will not.
    pub async fn beyond(&mut self, seen: Phase) -> Phase {
        let reached = self.0.wait_for(|phase| *phase > seen).await.map(|phase| *phase);
        match reached {
            Ok(phase) => phase,
            Err(_) => std::future::pending().await,
        }
    }
}
