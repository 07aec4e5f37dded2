//! Messages of the admin protocol, from and to what the house calls things.

use crate::care::{Purge, Purged};
use mortar_model::{ActionKey, Error, InstanceName, Result};
use mortar_store::{
    Finding, Selection, StoreStats, Verdict, VerifyStep,
    import::{Kind, Progress, Report},
};
use mortar_wire::{
    admin::{self, finding, purge_request},
    digest_function, required_digest, timestamp_from_wire,
};

pub(super) fn stats(stats: &StoreStats) -> admin::Stats {
    admin::Stats {
        bytes: stats.bytes,
        max_size: stats.max_size,
        blobs: stats.blobs,
        action_results: stats.results,
        values: stats.values,
        counted: stats.walked,
        evictions: stats.evictions,
        shed: stats.shed,
        quarantined: stats.quarantined,
        lost: stats.lost,
        lease_violations: stats.lease_violations,
        refused: stats.refused,
        reclaimed: stats.reclaimed,
        compressed: stats.squeezed,
        uploads: stats.uploads,
        invocations: stats.invocations,
        segment_bytes: stats.segment_bytes,
        file_bytes: stats.file_bytes,
        made_bytes: stats.made_bytes,
        index_bytes: stats.index_bytes,
    }
}

pub(super) fn finding(finding: &Finding) -> admin::Finding {
    let verdict = match finding.verdict {
        Verdict::Damaged => finding::Verdict::Damaged,
        Verdict::Lost => finding::Verdict::Lost,
        Verdict::Unreadable => finding::Verdict::Unreadable,
        Verdict::Recovered => finding::Verdict::Recovered,
        Verdict::Removed => finding::Verdict::Removed,
    };
    admin::Finding { verdict: verdict.into(), name: finding.name.clone(), why: finding.why.clone() }
}

pub(super) fn verify_progress(step: &VerifyStep, findings: Vec<admin::Finding>) -> admin::VerifyProgress {
    let report = &step.report;
    let report = admin::VerifyReport {
        blobs: report.blobs,
        records: report.records,
        damaged: report.damaged,
        lost: report.lost,
        unreadable: report.unreadable,
        recovered: report.recovered,
        removed: report.removed,
        recounted: report.recounted,
    };
    admin::VerifyProgress {
        done_bytes: step.done,
        total_bytes: step.total,
        findings,
        report: Some(report),
        finished: step.finished,
    }
}

/// What is to be purged, and whether only to count it.
pub(super) fn purge(request: admin::PurgeRequest) -> Result<(Purge, bool)> {
    use purge_request::Selection as Wire;
    let absent = || Error::invalid("selection", "nothing is selected");
    let purge = match request.selection.ok_or_else(absent)? {
        Wire::Blob(blob) => {
            let function = digest_function(blob.digest_function)?;
            Purge::Blob(required_digest("blob.digest", function, blob.digest)?)
        }
        Wire::Action(action) => {
            let function = digest_function(action.digest_function)?;
            Purge::Kept(Selection::Action(ActionKey::parse(function, &action.hash)?))
        }
        Wire::Instance(name) => Purge::Kept(Selection::Instance(InstanceName::parse(&name)?)),
        Wire::PutBefore(time) => {
            let time = timestamp_from_wire(Some(time));
            let time = time.ok_or_else(|| Error::invalid("put_before", "`put_before` is no time"))?;
            Purge::Kept(Selection::StoredBefore(time))
        }
        Wire::Worker(worker) => Purge::Kept(Selection::Worker(worker)),
        Wire::Invocation(invocation) => Purge::Kept(Selection::Invocation(invocation)),
    };
    Ok((purge, request.dry_run))
}

pub(super) fn purged(purged: Purged) -> admin::PurgeResponse {
    admin::PurgeResponse { blobs: purged.blobs, action_results: purged.results, values: purged.values }
}

pub(super) fn import_progress(progress: Progress, report: Option<&Report>) -> admin::ImportProgress {
    let Progress { files, bytes, skipped } = progress;
    admin::ImportProgress { files, skipped, bytes, report: report.map(import_report) }
}

fn import_report(report: &Report) -> admin::ImportReport {
    let kind = match report.kind {
        Kind::BazelDiskCache => "Bazel's disk cache",
        Kind::BazelRemote => "bazel-remote",
    };
    let skipped = report
        .skipped
        .iter()
        .map(|skipped| admin::Skipped { path: skipped.path.display().to_string(), why: skipped.why.clone() });
    admin::ImportReport {
        kind: kind.into(),
        blobs: report.blobs,
        known_blobs: report.known_blobs,
        action_results: report.results,
        known_action_results: report.known_results,
        skipped: skipped.collect(),
    }
}
