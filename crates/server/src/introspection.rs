//! `mortar.introspection.v1`: what the scheduler knows of queue, workers and running actions, for `mortar status`. It only
//! tells; what changes workers is on the admin socket.

use mortar_model::Platform;
use mortar_scheduler::{RunningAction, Scheduler, Standing, Status as Snapshot, WaitingGroup, WorkerStatus};
use mortar_wire::{
    digest_to_wire, duration_to_wire, function_to_wire,
    introspection::{
        self as wire, GetStatusRequest, Status,
        introspection_server::{Introspection, IntrospectionServer},
        worker,
    },
    reapi,
};
use std::cmp::Reverse;
use tonic::{Request, Response};

/// Tells what a scheduler does.
pub(crate) struct Service {
    scheduler: Scheduler,
}

/// The service over a scheduler.
pub(crate) fn service(scheduler: Scheduler) -> IntrospectionServer<Service> {
    IntrospectionServer::new(Service { scheduler })
}

#[tonic::async_trait]
impl Introspection for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<Status>, tonic::Status> {
        Ok(Response::new(status(self.scheduler.status().await)))
    }
}

fn status(mut snapshot: Snapshot) -> Status {
    snapshot.waiting.sort_by_key(|group| Reverse(group.oldest_wait));
    snapshot.running.sort_by_key(|action| Reverse(action.running_for));
    let counters = snapshot.counters;
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        closing: snapshot.closing,
        queued: snapshot.queued as u64,
        oldest_wait: snapshot.oldest_wait.map(duration_to_wire),
        waiting: snapshot.waiting.iter().map(waiting_group).collect(),
        workers: snapshot.workers.into_iter().map(worker).collect(),
        running: snapshot.running.into_iter().map(running_action).collect(),
        counters: Some(wire::Counters {
            executed: counters.executed,
            merged: counters.merged,
            retried: counters.retried,
            cancelled: counters.cancelled,
            failed: counters.failed,
        }),
    }
}

fn waiting_group(group: &WaitingGroup) -> wire::WaitingGroup {
    wire::WaitingGroup {
        platform: properties(&group.platform),
        cpu_millis: group.cpu_millis,
        memory: group.memory,
        queued: group.queued as u64,
        oldest_wait: Some(duration_to_wire(group.oldest_wait)),
        reason: group.reason.to_string(),
    }
}

fn worker(worker: WorkerStatus) -> wire::Worker {
    let share = |(taken, total)| Some(worker::Share { taken, total });
    wire::Worker {
        standing: standing(worker.standing).into(),
        slots: worker.slots,
        busy: worker.busy,
        platform: properties(&worker.platform),
        cpu_millis: share(worker.cpu_millis),
        memory: share(worker.memory),
        connected_for: Some(duration_to_wire(worker.connected_for)),
        name: worker.name,
        layers: worker.layers,
        images: worker.images,
    }
}

fn standing(standing: Standing) -> worker::Standing {
    match standing {
        Standing::Serving => worker::Standing::Serving,
        Standing::Paused => worker::Standing::Paused,
        Standing::Draining => worker::Standing::Draining,
        Standing::Away => worker::Standing::Away,
    }
}

fn running_action(action: RunningAction) -> wire::RunningAction {
    wire::RunningAction {
        instance_name: action.instance.to_string(),
        digest_function: function_to_wire(action.action_digest.function()).into(),
        action_digest: Some(digest_to_wire(action.action_digest)),
        mnemonic: action.mnemonic,
        target: action.target,
        invocation: action.invocation,
        worker: action.worker,
        running_for: Some(duration_to_wire(action.running_for)),
        waiters: action.waiters as u64,
        attempt: action.attempt,
        cancelled: action.cancelled,
    }
}

fn properties(platform: &Platform) -> Vec<reapi::platform::Property> {
    let properties = platform.properties.iter();
    let property = |property: &mortar_model::Property| reapi::platform::Property {
        name: property.name.clone(),
        value: property.value.clone(),
    };
    properties.map(property).collect()
}
