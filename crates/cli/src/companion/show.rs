//! How a companion is doing, as tables for people and as JSON for programs.

use crate::{
    table::table,
    units::{approximately, lasting},
};
use mortar_wire::{
    companion::{CompanionStatus, LocalWorker, Owed, Refused, Upstream},
    timestamp_from_wire,
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// For people. What is empty is left out.
pub(super) fn text(status: &CompanionStatus) -> String {
    let mut blocks = vec![summary(status)];
    let head = ["UPSTREAM", "ADDRESS", "OWED", "SENT", "FOUND", "KNOWN", "REFUSED", "TROUBLE"];
    blocks.push(table(&head, status.upstreams.iter().map(upstream_row)));
    if let Some(worker) = &status.local_worker {
        blocks.push(local_worker(worker));
    }
    if !status.refused.is_empty() {
        blocks.push(table(&["REFUSED", "UPSTREAM", "AGO", "WHY"], status.refused.iter().map(refused_row)));
    }
    blocks.join("\n")
}

/// What is owed, in a few words.
pub(super) fn owed(owed: &Owed) -> String {
    format!("{} blobs and {} results, {}", owed.blobs, owed.results, approximately(owed.bytes))
}

fn summary(status: &CompanionStatus) -> String {
    let age = ago(status.started);
    format!(
        "{} and unix:{}, version {}, process {}, for {}\n\
         cache in {}: {} of {}, {} blobs, {} results; {} of {} results that were sent ahead were asked for\n",
        status.url,
        status.socket,
        status.version,
        status.process,
        lasting(age),
        status.directory,
        approximately(status.bytes),
        approximately(status.max_size),
        status.blobs,
        status.action_results,
        status.sent_ahead_used,
        status.sent_ahead,
    )
}

fn upstream_row(upstream: &Upstream) -> Vec<String> {
    let debt = upstream.owed.unwrap_or_default();
    let waiting = match debt.blobs + debt.results {
        0 => "nothing".to_owned(),
        _ => format!("{}, for {}", owed(&debt), lasting(ago(debt.since))),
    };
    let name = if upstream.name.is_empty() { "(default)" } else { &upstream.name };
    let sent = format!(
        "{} blobs, {}, {} results",
        upstream.sent_blobs,
        approximately(upstream.sent_bytes),
        upstream.sent_results
    );
    vec![
        name.to_owned(),
        upstream.address.clone(),
        waiting,
        sent,
        upstream.found_blobs.to_string(),
        upstream.known.to_string(),
        upstream.refused.to_string(),
        upstream.trouble.clone(),
    ]
}

/// What runs on this machine, and what came of it.
fn local_worker(worker: &LocalWorker) -> String {
    let LocalWorker { mode, slots, ran, .. } = worker;
    let mut text = format!("local worker ({mode}): {slots} at a time, {ran} ran\n");
    match mode.as_str() {
        "race" => {
            let LocalWorker { won_here, won_upstream, unraced, .. } = worker;
            text += &format!(
                "races: {won_here} won here, {won_upstream} upstream; {unraced} ran upstream alone\n"
            );
        }
        "compare" => {
            let LocalWorker { same, different, not_compared, .. } = worker;
            text +=
                &format!("compared: {same} the same, {different} different, {not_compared} not possible\n");
        }
        _ => {}
    }
    let lines = worker.not_reproducible.iter().flat_map(|report| {
        let of = format!("{} {}", report.mnemonic, report.target);
        report.differences.iter().map(move |difference| format!("not reproducible: {of}: {difference}\n"))
    });
    text.extend(lines);
    text
}

fn refused_row(refused: &Refused) -> Vec<String> {
    let name = if refused.upstream.is_empty() { "(default)" } else { &refused.upstream };
    vec![refused.what.clone(), name.to_owned(), lasting(ago(refused.at)), refused.why.clone()]
}

fn ago(time: Option<prost_types::Timestamp>) -> Duration {
    let time = timestamp_from_wire(time).unwrap_or_else(SystemTime::now);
    time.elapsed().unwrap_or_default()
}

/// For programs.
pub(super) fn json(status: &CompanionStatus) -> Value {
    let seconds = |time: Option<prost_types::Timestamp>| time.map(|time| time.seconds);
    let upstreams = status.upstreams.iter().map(|upstream| {
        let owed = upstream.owed.unwrap_or_default();
        json!({
            "name": upstream.name,
            "address": upstream.address,
            "trouble": upstream.trouble,
            "owed": {
                "blobs": owed.blobs,
                "results": owed.results,
                "bytes": owed.bytes,
                "since": seconds(owed.since),
            },
            "sent_blobs": upstream.sent_blobs,
            "sent_bytes": upstream.sent_bytes,
            "sent_results": upstream.sent_results,
            "found_blobs": upstream.found_blobs,
            "known": upstream.known,
            "refused": upstream.refused,
        })
    });
    let refused = status.refused.iter().map(|refused| {
        json!({
            "upstream": refused.upstream,
            "what": refused.what,
            "why": refused.why,
            "at": seconds(refused.at),
        })
    });
    json!({
        "version": status.version,
        "process": status.process,
        "started": seconds(status.started),
        "url": status.url,
        "socket": status.socket,
        "directory": status.directory,
        "bytes": status.bytes,
        "max_size": status.max_size,
        "blobs": status.blobs,
        "action_results": status.action_results,
        "upstreams": upstreams.collect::<Vec<_>>(),
        "refused": refused.collect::<Vec<_>>(),
        "local_worker": status.local_worker.as_ref().map(local_worker_json),
        "sent_ahead": status.sent_ahead,
        "sent_ahead_used": status.sent_ahead_used,
    })
}

fn local_worker_json(worker: &LocalWorker) -> Value {
    let reports = worker.not_reproducible.iter().map(|report| {
        json!({
            "action": report.action,
            "mnemonic": report.mnemonic,
            "target": report.target,
            "differences": report.differences,
        })
    });
    json!({
        "mode": worker.mode,
        "slots": worker.slots,
        "ran": worker.ran,
        "won_here": worker.won_here,
        "won_upstream": worker.won_upstream,
        "unraced": worker.unraced,
        "same": worker.same,
        "different": worker.different,
        "not_compared": worker.not_compared,
        "not_reproducible": reports.collect::<Vec<_>>(),
    })
}
