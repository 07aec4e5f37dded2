//! The words for what could not be done.

use super::{
    job::Job,
    queue::Overdue,
    workers::{Worker, Workers},
};
use crate::{Config, Failure};
use mortar_model::{Kind, Platform, Property};

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

/// It was waited too long.
pub(super) fn overdue(job: &Job, overdue: Overdue, workers: &Workers, config: &Config) -> Failure {
    match overdue {
        Overdue::Turn { waited } => {
            let message = format!(
                "action `{}` waited {waited:.0?} for its turn; all workers that could run it are busy",
                job.action_digest
            );
            Failure::new(Kind::ResourceExhausted { message, retry_after: Some(config.retry_after) })
        }
        Overdue::Worker { waited } => {
            let waited = format!("action `{}` waited {waited:.0?}", job.action_digest);
            let message = match workers.nearest(&job.platform) {
                None => format!("{waited} but no worker is connected"),
                Some((worker, unmet)) if unmet.is_empty() => {
                    format!(
                        "{waited} but every worker that could run it is draining, such as `{}`",
                        worker.name
                    )
                }
                Some((worker, unmet)) => {
                    format!("{waited} but no worker offers what it asks for: {}", difference(worker, &unmet))
                }
            };
            Failure::new(Kind::FailedPrecondition { message })
        }
    }
}

fn difference(worker: &Worker, unmet: &[&Property]) -> String {
    let lacks: Vec<_> = unmet.iter().map(|property| quoted(property)).collect();
    let instead: Vec<_> = unmet.iter().flat_map(|wanted| same_name(&worker.platform, wanted)).collect();
    let has = if instead.is_empty() { String::new() } else { format!(" (it has {})", instead.join(", ")) };
    let draining = if worker.is_draining() { ", which is draining," } else { "" };
    format!("the nearest, `{}`{draining} lacks {}{has}", worker.name, lacks.join(", "))
}

fn same_name<'a>(offer: &'a Platform, wanted: &'a Property) -> impl Iterator<Item = String> + 'a {
    offer.properties.iter().filter(|offered| offered.name == wanted.name).map(quoted)
}

fn quoted(property: &Property) -> String {
    format!("`{}={}`", property.name, property.value)
}
