//! The words for what could not be done, and for what is waited for.

use super::{
    job::Job,
    need::{Demand, Room},
    pools::{self, Pools},
    queue::{Outlook, Overdue, Reach},
    workers::{Worker, Workers},
};
use crate::{Config, Failure};
use mortar_model::{Digest, Kind, Platform, Property};
use std::sync::Arc;

/// The queue is full.
pub(super) fn full(config: &Config) -> Failure {
    let message = format!("the queue is full: {} actions wait for a worker", config.max_queued);
    Failure::new(Kind::ResourceExhausted { message, retry_after: Some(config.retry_after) })
}

/// The server takes no more work.
pub(super) fn closing(config: &Config) -> Failure {
    let message = "the server is shutting down".to_owned();
    Failure::new(Kind::Unavailable { message, retry_after: Some(config.retry_after) })
}

/// Too many workers failed.
pub(super) fn exhausted(job: &Job) -> Failure {
    let attempts = job.setbacks.len();
    let setbacks: Vec<_> = job.setbacks.iter().map(ToString::to_string).collect();
    let message = format!(
        "action `{}` was given up after {attempts} {}: {}",
        job.action_digest,
        if attempts == 1 { "attempt" } else { "attempts" },
        setbacks.join("; ")
    );
    // Not a code that clients repeat: what costs one worker after the other is likely to do so again.
    Failure::new(Kind::FailedPrecondition { message })
}

/// Nobody that is known can run it.
pub(super) fn never(action: Digest, outlook: &Outlook) -> Failure {
    let message = format!("action `{action}` cannot be run here: {}", outlook.reason);
    Failure::new(Kind::FailedPrecondition { message })
}

/// It was waited too long.
pub(super) fn overdue(job: &Job, overdue: Overdue, outlook: &Outlook, config: &Config) -> Failure {
    match overdue {
        Overdue::Turn { waited } => {
            let message = format!(
                "action `{}` waited {waited:.0?} for its turn; all workers that could run it are busy",
                job.action_digest
            );
            Failure::new(Kind::ResourceExhausted { message, retry_after: Some(config.retry_after) })
        }
        Overdue::Worker { waited } => {
            let message =
                format!("action `{}` waited {waited:.0?} but {}", job.action_digest, outlook.reason);
            Failure::new(Kind::FailedPrecondition { message })
        }
    }
}

/// Who could run this, and why nobody does.
pub(super) fn outlook(demand: &Demand, workers: &Workers, pools: &Pools) -> Outlook {
    let suiting = || workers.iter().map(|(_, worker)| worker).filter(|worker| worker.suits(demand));
    let (reach, reason) = if suiting().any(Worker::serves) {
        (Reach::Served, "it waits for its turn: the workers that could run it are busy".to_owned())
    } else if let Some(worker) = suiting().next() {
        (Reach::Later, halted(worker))
    } else if let Some(pool) = pools.suiting(demand) {
        (Reach::Later, format!("no worker of pool `{}`, which could run it, is connected", pool.name))
    } else {
        (Reach::Never, nearest(demand, workers, pools))
    };
    Outlook { reach, reason: reason.into() }
}

/// That what ran before a restart waits for its worker.
pub(super) fn recalled() -> Arc<str> {
    "it ran when the server was restarted, and its worker may bring it along".into()
}

fn halted(worker: &Worker) -> String {
    let why = match worker {
        Worker { away: Some(_), .. } => "has lost its connection",
        Worker { draining: true, .. } => "is draining",
        _ => "is paused",
    };
    format!("every worker that could run it {why}, such as `{}`", worker.name)
}

/// Someone who can nearly run it, be it a worker or a pool.
struct Candidate<'a> {
    name: &'a str,
    platform: &'a Platform,
    room: Room,
    here: bool,
}

fn nearest(demand: &Demand, workers: &Workers, pools: &Pools) -> String {
    let here = workers.iter().map(|(_, worker)| Candidate {
        name: &worker.name,
        platform: &worker.platform,
        room: worker.size,
        here: true,
    });
    let known = pools.iter().map(|pool| Candidate {
        name: &pool.name,
        platform: &pool.platform,
        room: pools::room(pool),
        here: false,
    });
    let distance = |candidate: &Candidate<'_>| {
        let unmet = demand.platform.unmet_by(candidate.platform).count();
        let lacks = |need: u64, has: u64| need.saturating_sub(has);
        let cpu = lacks(demand.declared.cpu_millis, candidate.room.cpu_millis);
        let memory = lacks(demand.declared.memory, candidate.room.memory);
        (unmet, usize::from(cpu > 0) + usize::from(memory > 0), cpu, memory, !candidate.here)
    };
    match here.chain(known).min_by_key(distance) {
        None => "no worker is connected, and no pool is known".to_owned(),
        Some(candidate) => {
            format!(
                "no pool offers what it asks for: the nearest, `{}`, {}",
                candidate.name,
                differs(demand, &candidate)
            )
        }
    }
}

/// All that keeps someone from running this.
fn differs(demand: &Demand, candidate: &Candidate<'_>) -> String {
    let unmet: Vec<_> = demand.platform.unmet_by(candidate.platform).collect();
    let mut all = Vec::new();
    if !unmet.is_empty() {
        let lacks: Vec<_> = unmet.iter().map(|property| quoted(property)).collect();
        let instead: Vec<_> = unmet.iter().flat_map(|wanted| same_name(candidate.platform, wanted)).collect();
        let has =
            if instead.is_empty() { String::new() } else { format!(" (it has {})", instead.join(", ")) };
        all.push(format!("lacks {}{has}", lacks.join(", ")));
    }
    let (asked, room) = (demand.declared, candidate.room);
    if asked.cpu_millis > room.cpu_millis {
        all.push(format!("has {} of the {} processors", cpus(room.cpu_millis), cpus(asked.cpu_millis)));
    }
    if asked.memory > room.memory {
        all.push(format!("has {} of the {} bytes of memory", room.memory, asked.memory));
    }
    all.join(" and ")
}

fn cpus(millis: u64) -> String {
    format!("{}", millis as f64 / 1000.0)
}

fn same_name<'a>(offer: &'a Platform, wanted: &'a Property) -> impl Iterator<Item = String> + 'a {
    offer.properties.iter().filter(|offered| offered.name == wanted.name).map(quoted)
}

fn quoted(property: &Property) -> String {
    format!("`{}={}`", property.name, property.value)
}
