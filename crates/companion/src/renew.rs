//! Keeps what is known from going out of date: what is used is asked about again, in batches, and all of it is written
//! down from time to time.

use crate::{
    knowledge::Knowledge,
    upstream::{Upstream, Upstreams},
};
use mortar_model::{Context, DigestSet, InstanceName};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often what is new is written down, and how often what is old is asked about.
const SAVE: Duration = Duration::from_secs(1);
const RENEW: u32 = 30;

/// Does so until `stop` is cancelled.
pub(crate) async fn run(knowledge: Arc<Knowledge>, upstreams: Arc<Upstreams>, stop: CancellationToken) {
    let mut round = 0;
    while stop.run_until_cancelled(tokio::time::sleep(SAVE)).await.is_some() {
        save(&knowledge).await;
        round += 1;
        if round % RENEW == 0 {
            for upstream in upstreams.all() {
                stop.run_until_cancelled(renew(&knowledge, upstream)).await;
            }
        }
    }
    save(&knowledge).await;
}

async fn save(knowledge: &Arc<Knowledge>) {
    let knowledge = knowledge.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || knowledge.save()).await {
        tracing::warn!("{error}");
    }
}

async fn renew(knowledge: &Knowledge, upstream: &Upstream) {
    for (scope, instance) in knowledge.instances(&upstream.uri) {
        let due = DigestSet::from_iter(knowledge.due(scope));
        if due.is_empty() {
            continue;
        }
        let Ok(instance) = InstanceName::parse(&instance) else { continue };
        let context = Context::internal().with_instance(instance);
        match upstream.heard(mortar_model::BlobStore::find_missing(&upstream.remote, &context, &due).await) {
            Ok(missing) => {
                knowledge.note(
                    scope,
                    due.iter().filter(|digest| !missing.contains(digest)),
                    upstream.lease_of(&context),
                );
                knowledge.forget(scope, missing.iter());
            }
            Err(error) => tracing::debug!(%error, "what is known is not renewed"),
        }
    }
}
