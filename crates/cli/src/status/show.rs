//! What a server does, as tables for people and as JSON for programs.

use crate::{
    table::{printable, table},
    units::{approximately, lasting},
};
use mortar_wire::{
    introspection::{
        RunningAction, Status, WaitingGroup, Worker,
        worker::{Share, Standing},
    },
    optional_digest,
    reapi::platform::Property,
};
use serde_json::{Value, json};
use std::time::Duration;

/// For people. What is empty is left out, except for what that means.
pub(super) fn text(url: &str, status: &Status) -> String {
    let mut blocks = vec![summary(url, status)];
    if !status.waiting.is_empty() {
        let head = ["WAITING", "OLDEST", "NEEDS", "PLATFORM", "WHY"];
        blocks.push(table(&head, status.waiting.iter().map(waiting_row)));
    }
    if !status.workers.is_empty() {
        let head = ["WORKER", "STANDING", "BUSY", "CPUS", "MEMORY", "PLATFORM", "LAYERS"];
        blocks.push(table(&head, status.workers.iter().map(worker_row)));
    }
    if !status.running.is_empty() {
        let head = ["RUNNING", "FOR", "ATTEMPT", "WORKER", "TARGET", "INVOCATION"];
        blocks.push(table(&head, status.running.iter().map(running_row)));
    }
    blocks.join("\n")
}

fn summary(url: &str, status: &Status) -> String {
    let oldest = match &status.oldest_wait {
        Some(wait) => format!(" (the oldest for {})", lasting(span(Some(wait)))),
        None => String::new(),
    };
    let workers = match status.workers.len() {
        0 => "no worker is connected".to_owned(),
        1 => "1 worker".to_owned(),
        more => format!("{more} workers"),
    };
    let grouped: u64 = status.waiting.iter().map(|group| group.queued).sum();
    let recalled = match status.queued.saturating_sub(grouped) {
        0 => String::new(),
        some => format!(
            "{some} of those waiting ran when the server was restarted, and their workers may bring them along\n"
        ),
    };
    let longest = status.waiting.iter().max_by_key(|group| span(group.oldest_wait.as_ref()));
    let why =
        longest.map_or_else(String::new, |group| format!("the longest wait: {}\n", printable(&group.reason)));
    let closing = if status.closing { "; it is shutting down" } else { "" };
    let counters = status.counters.unwrap_or_default();
    format!(
        "{url}, version {}\n{} waiting{oldest}, {} running, {workers}{closing}\n\
         since its start: {} executed, {} joined, {} tried again, {} cancelled, {} failed\n{recalled}{why}",
        status.version,
        status.queued,
        status.running.len(),
        counters.executed,
        counters.merged,
        counters.retried,
        counters.cancelled,
        counters.failed
    )
}

fn waiting_row(group: &WaitingGroup) -> Vec<String> {
    let needs = [
        (group.cpu_millis > 0).then(|| format!("{} cpus", cpus(group.cpu_millis))),
        (group.memory > 0).then(|| approximately(group.memory)),
    ];
    let needs: Vec<_> = needs.into_iter().flatten().collect();
    vec![
        group.queued.to_string(),
        lasting(span(group.oldest_wait.as_ref())),
        or_dash(needs.join(", ")),
        or_dash(properties(&group.platform)),
        group.reason.clone(),
    ]
}

fn worker_row(worker: &Worker) -> Vec<String> {
    let (cpu, memory) = (worker.cpu_millis.unwrap_or_default(), worker.memory.unwrap_or_default());
    vec![
        worker.name.clone(),
        standing(worker).to_owned(),
        format!("{} of {}", worker.busy, worker.slots),
        format!("{} of {}", cpus(cpu.taken), cpus(cpu.total)),
        format!("{} of {}", approximately(memory.taken), approximately(memory.total)),
        or_dash(properties(&worker.platform)),
        or_dash(worker.layers.join(", ")),
    ]
}

fn running_row(action: &RunningAction) -> Vec<String> {
    let kind = if action.mnemonic.is_empty() { "action" } else { &action.mnemonic };
    let cancelled = if action.cancelled { " (cancelled)" } else { "" };
    vec![
        format!("{kind}{cancelled}"),
        lasting(span(action.running_for.as_ref())),
        action.attempt.to_string(),
        action.worker.clone(),
        or_dash(action.target.clone()),
        or_dash(action.invocation.clone()),
    ]
}

/// For programs.
pub(super) fn json(status: &Status) -> anyhow::Result<Value> {
    let counters = status.counters.unwrap_or_default();
    let running: Vec<_> = status.running.iter().map(running_json).collect::<anyhow::Result<_>>()?;
    Ok(json!({
        "version": status.version, "closing": status.closing,
        "queued": status.queued, "oldest_wait_ms": status.oldest_wait.as_ref().map(|wait| millis(Some(wait))),
        "waiting": status.waiting.iter().map(waiting_json).collect::<Vec<_>>(),
        "workers": status.workers.iter().map(worker_json).collect::<Vec<_>>(),
        "running": running,
        "counters": {
            "executed": counters.executed, "merged": counters.merged, "retried": counters.retried,
            "cancelled": counters.cancelled, "failed": counters.failed,
        },
    }))
}

fn waiting_json(group: &WaitingGroup) -> Value {
    json!({
        "queued": group.queued, "oldest_wait_ms": millis(group.oldest_wait.as_ref()),
        "platform": platform_json(&group.platform), "cpu_millis": group.cpu_millis,
        "memory_bytes": group.memory, "reason": group.reason,
    })
}

fn worker_json(worker: &Worker) -> Value {
    let share = |share: Option<Share>| {
        let Share { taken, total } = share.unwrap_or_default();
        json!({ "taken": taken, "total": total })
    };
    json!({
        "name": worker.name, "standing": standing(worker), "slots": worker.slots, "busy": worker.busy,
        "platform": platform_json(&worker.platform), "cpu_millis": share(worker.cpu_millis),
        "memory_bytes": share(worker.memory), "layers": worker.layers, "images": worker.images,
        "connected_for_ms": millis(worker.connected_for.as_ref()),
    })
}

fn running_json(action: &RunningAction) -> anyhow::Result<Value> {
    let function = mortar_wire::digest_function(action.digest_function)?;
    let digest = optional_digest("action_digest", function, action.action_digest.clone())?;
    Ok(json!({
        "action": digest.map(|digest| format!("{}/{}", digest.hex(), digest.size())),
        "instance": action.instance_name, "mnemonic": action.mnemonic, "target": action.target,
        "invocation": action.invocation, "worker": action.worker,
        "running_for_ms": millis(action.running_for.as_ref()), "waiters": action.waiters,
        "attempt": action.attempt, "cancelled": action.cancelled,
    }))
}

fn standing(worker: &Worker) -> &'static str {
    match worker.standing() {
        Standing::Unspecified => "unknown",
        Standing::Serving => "serving",
        Standing::Paused => "paused",
        Standing::Draining => "draining",
        Standing::Away => "away",
    }
}

fn platform_json(platform: &[Property]) -> Vec<Value> {
    platform.iter().map(|property| json!({ "name": property.name, "value": property.value })).collect()
}

fn properties(platform: &[Property]) -> String {
    let properties = platform.iter().map(|property| format!("{}={}", property.name, property.value));
    properties.collect::<Vec<_>>().join(" ")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

fn cpus(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// What a server of ours tells is never negative.
fn span(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|told| Duration::try_from(*told).ok()).unwrap_or_default()
}

fn millis(duration: Option<&prost_types::Duration>) -> u64 {
    u64::try_from(span(duration).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_its_worker_after_a_restart_is_told_apart() {
        let group = WaitingGroup { queued: 2, reason: "busy".into(), ..WaitingGroup::default() };
        let status = Status { version: "1".into(), queued: 5, waiting: vec![group], ..Status::default() };
        let told = text("grpc://a:1", &status);
        assert_eq!(
            told,
            "grpc://a:1, version 1\n\
             5 waiting, 0 running, no worker is connected\n\
             since its start: 0 executed, 0 joined, 0 tried again, 0 cancelled, 0 failed\n\
             3 of those waiting ran when the server was restarted, and their workers may bring them along\n\
             the longest wait: busy\n\
             \n\
             WAITING  OLDEST  NEEDS  PLATFORM  WHY\n\
             2        0 s     -      -         busy\n"
        );
    }

    #[test]
    fn what_nobody_waits_for_is_marked() {
        let action = RunningAction { cancelled: true, attempt: 2, ..RunningAction::default() };
        let row = running_row(&action);
        assert_eq!(row, ["action (cancelled)", "0 s", "2", "", "-", "-"]);
    }
}
