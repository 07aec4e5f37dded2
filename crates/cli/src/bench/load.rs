//! One call, again and again: the workers of a scenario and what they measured.

use super::{
    content::Random,
    cpu,
    progress::Bar,
    target::{Client, describe, is_gone},
};
use anyhow::{Result, bail};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tonic::Status;

/// How long calls that are under way at the end of a scenario may take yet.
const GRACE: Duration = Duration::from_secs(60);

/// The repeated call of a scenario, to a server or to a store in this process.
#[tonic::async_trait]
pub(super) trait Load<C = Client>: Send + Sync + 'static {
    /// Makes the call. What has to be made for it first is made before the clock is started.
    async fn call(&self, worker: &mut Worker<C>) -> Result<Done, Failure>;
}

/// Who makes calls.
pub(super) struct Worker<C = Client> {
    /// Counts from 0.
    pub(super) number: usize,
    pub(super) client: C,
    pub(super) random: Random,
    started: Instant,
}

/// A call that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// There is nobody to call any more.
    gone: bool,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { message: describe(&status), gone: is_gone(&status) }
    }
}

impl From<mortar_model::Error> for Failure {
    fn from(error: mortar_model::Error) -> Self {
        Self { message: error.to_string(), gone: false }
    }
}

/// How calls are made.
pub(super) struct Drive<'a, C> {
    /// Shared by the workers in turn.
    pub(super) clients: &'a [C],
    pub(super) workers: usize,
    pub(super) duration: Duration,
    /// The process that serves them, if it is on this machine.
    pub(super) server: Option<u32>,
}

impl<C> Worker<C> {
    /// Starts the clock of a call again, after its content was made.
    pub(super) fn start_clock(&mut self) {
        self.started = Instant::now();
    }
}

/// What one call brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Digests, blobs, results or actions.
    pub(super) items: u64,
    /// Bytes of content.
    pub(super) bytes: u64,
}

/// What a scenario measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    pub(super) calls: u64,
    pub(super) items: u64,
    pub(super) bytes: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Of the calls that succeeded, in microseconds, sorted.
    pub(super) latencies: Vec<u64>,
    pub(super) client_cpu: Option<Duration>,
    pub(super) server_cpu: Option<Duration>,
}

/// Has workers make calls for as long as they are to.
pub(super) async fn drive<C: Clone + Send + 'static>(
    plan: Drive<'_, C>,
    load: Arc<dyn Load<C>>,
    bar: &Bar<'_>,
) -> Result<Measured> {
    let gone = Arc::new(AtomicBool::new(false));
    let (cpu, server_cpu, started) = (cpu::own(), plan.server.map(cpu::of).transpose()?, Instant::now());
    let end = started + plan.duration;
    let mut running = JoinSet::new();
    for number in 0..plan.workers {
        let client = plan.clients[number % plan.clients.len()].clone();
        let worker = Worker { number, client, random: Random::new(), started };
        running.spawn(work(worker, load.clone(), end, gone.clone()));
    }
    let mut measured = Measured::default();
    let give_up = tokio::time::sleep_until((end + GRACE).into());
    tokio::pin!(give_up);
    loop {
        tokio::select! {
            next = running.join_next() => match next {
                Some(part) => measured.add(part?),
                None => break,
            },
            () = &mut give_up => bail!("{} calls were not answered within {} s after its end", running.len(), GRACE.as_secs()),
            () = bar.tick() => {}
        }
    }
    measured.elapsed = started.elapsed();
    measured.client_cpu = cpu.zip(cpu::own()).map(|(before, after)| after.saturating_sub(before));
    if let (Some(pid), Some(before)) = (plan.server, server_cpu) {
        measured.server_cpu = Some(cpu::of(pid)?.saturating_sub(before));
    }
    measured.latencies.sort_unstable();
    measured.judge(gone.load(Ordering::Relaxed))
}

/// Makes calls until the time is over or the server is gone; one at least, however busy the machine is.
async fn work<C: Send + 'static>(
    mut worker: Worker<C>,
    load: Arc<dyn Load<C>>,
    end: Instant,
    gone: Arc<AtomicBool>,
) -> Measured {
    let mut measured = Measured::default();
    let is_first = |measured: &Measured| measured.calls + measured.errors == 0;
    while (is_first(&measured) || Instant::now() < end) && !gone.load(Ordering::Relaxed) {
        worker.start_clock();
        match load.call(&mut worker).await {
            Ok(done) => {
                let micros = u64::try_from(worker.started.elapsed().as_micros()).unwrap_or(u64::MAX);
                measured.latencies.push(micros);
                measured.calls += 1;
                measured.items += done.items;
                measured.bytes += done.bytes;
            }
            Err(failure) => {
                measured.errors += 1;
                if failure.gone {
                    gone.store(true, Ordering::Relaxed);
                    measured.first_error = None;
                }
                measured.first_error.get_or_insert(failure.message);
                // A server that refuses at once is not to be hammered.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    measured
}

impl Measured {
    fn add(&mut self, part: Self) {
        self.calls += part.calls;
        self.items += part.items;
        self.bytes += part.bytes;
        self.errors += part.errors;
        self.latencies.extend(part.latencies);
        self.first_error = self.first_error.take().or(part.first_error);
    }

    /// Several rounds as one.
    pub(super) fn of_rounds(rounds: Vec<Self>) -> Self {
        let sum = |all: Option<Duration>, next: Option<Duration>| all.zip(next).map(|(all, next)| all + next);
        let mut whole =
            Self { client_cpu: Some(Duration::ZERO), server_cpu: Some(Duration::ZERO), ..Self::default() };
        for round in rounds {
            whole.elapsed += round.elapsed;
            whole.client_cpu = sum(whole.client_cpu, round.client_cpu);
            whole.server_cpu = sum(whole.server_cpu, round.server_cpu);
            whole.add(round);
        }
        whole.latencies.sort_unstable();
        whole
    }

    /// Items a second.
    pub(super) fn rate(&self) -> f64 {
        self.items as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    fn judge(self, gone: bool) -> Result<Self> {
        match &self.first_error {
            Some(error) if gone => bail!("the server went away: {error}"),
            Some(error) if self.calls == 0 => bail!("every call failed, the first with: {error}"),
            _ => Ok(self),
        }
    }

    /// The latency that this share of the calls did not exceed.
    pub(super) fn percentile(&self, share: f64) -> Duration {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        let latency = self.latencies.get(rank.saturating_sub(1)).or(self.latencies.last());
        Duration::from_micros(latency.copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_latencies_that_occurred() {
        let measured = Measured { latencies: (1..=100).collect(), ..Measured::default() };
        for (share, micros) in [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100), (0.0, 1)] {
            assert_eq!(measured.percentile(share), Duration::from_micros(micros), "{share}");
        }
        assert_eq!(Measured::default().percentile(0.5), Duration::ZERO);
    }
}
