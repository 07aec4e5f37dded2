//! A server and its workers as processes that are killed at random, alone and together, and started again.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::conformance::Random;
use crate::mortar::{Mortar, Worker};

/// A `mortar server` with some `mortar worker`s, each with a directory of its own.
#[derive(Debug)]
pub struct Cluster {
    server: Mortar,
    workers: Vec<Worker>,
    /// A worker that was killed and stays away until the next strike.
    absent: Option<usize>,
    random: Random,
    /// How often each kind of victim was hit.
    tally: Tally,
}

/// How many kills there were, by what was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub worker: usize,
    pub server: usize,
    /// Server and all workers at once.
    pub all: usize,
}

impl Tally {
    /// All of them.
    pub fn sum(&self) -> usize {
        self.worker + self.server + self.all
    }
}

impl Cluster {
    /// Starts them below `dir`, workers of two slots.
    pub fn start(program: impl AsRef<Path>, dir: &Path, workers: usize) -> Result<Cluster> {
        let program: PathBuf = program.as_ref().to_owned();
        let server = Mortar::server(&program, &dir.join("server"))?;
        let start = |number: usize| {
            let name = format!("worker{number}");
            Worker::start(&program, &server.grpc(), &dir.join(&name), &["--slots", "2", "--name", &name])
        };
        let workers = (0..workers).map(start).collect::<Result<_>>()?;
        Ok(Cluster { server, workers, absent: None, random: Random::new(), tally: Tally::default() })
    }

    /// The server: it stays at its address.
    pub fn server(&self) -> &Mortar {
        &self.server
    }

    /// What was killed so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Kills somebody, and starts again what is away: at once, or in one case of four at the next strike, if it was a
    /// worker and another is there.
    pub fn strike(&mut self) -> Result<()> {
        let returning = self.absent.take();
        let victim = self.chosen(self.workers.len());
        match self.chosen(6) {
            0 | 1 => {
                self.tally.server += 1;
                self.server.kill()?;
                self.server.restart()?;
            }
            2 => {
                self.tally.all += 1;
                self.server.kill()?;
                self.workers.iter_mut().try_for_each(Worker::kill)?;
                self.server.restart()?;
                return self.workers.iter_mut().try_for_each(Worker::restart);
            }
            _ => {
                self.tally.worker += 1;
                self.workers[victim].kill()?;
                if self.workers.len() > 1 && returning.is_none() && self.chosen(4) == 0 {
                    self.absent = Some(victim);
                } else if returning != Some(victim) {
                    self.workers[victim].restart()?;
                }
            }
        }
        match returning {
            Some(worker) => self.workers[worker].restart(),
            None => Ok(()),
        }
    }

    /// A number below `bound`.
    pub fn chosen(&mut self, bound: usize) -> usize {
        (self.random.number() % bound as u64) as usize
    }

    /// What they said last, for a test that fails.
    pub fn logs(&self) -> String {
        let workers = self.workers.iter().map(Worker::log);
        let logs = std::iter::once(self.server.log()).chain(workers);
        logs.map(|log| log.unwrap_or_else(|error| error.to_string())).collect::<Vec<_>>().join("\n--\n")
    }
}
