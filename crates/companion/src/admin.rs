//! `mortar.companion.v1`: what is asked of a companion over its unix socket, which is its user's alone.

use crate::{
    Flushed, Left, Refused,
    assemble::Companion,
    here::Here,
    life::{Whereabouts, hand_over},
    race::{Comparisons, Report, Tally},
    upstream::Upstream,
};
use mortar_model::Error;
use mortar_services::listener::Spare;
use mortar_wire::{
    companion::{
        CompanionStatus, FlushRequest, FlushResponse, GetStatusRequest, HandOverRequest, HandOverResponse,
        LocalWorker, NotReproducible, Owed, StopRequest, StopResponse, companion_server,
    },
    duration_from_wire, status, timestamp_to_wire,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Answers for one companion.
pub(crate) struct Service {
    pub companion: Arc<Companion>,
    pub whereabouts: Whereabouts,
    pub started: SystemTime,
    /// Ends the companion.
    pub stop: CancellationToken,
    /// What another companion may take over.
    pub sockets: [Spare; 2],
}

impl Service {
    fn status(&self) -> CompanionStatus {
        let stats = self.companion.store_stats();
        let (sent_ahead, sent_ahead_used) = self.companion.sent_ahead();
        CompanionStatus {
            version: self.whereabouts.version.clone(),
            process: self.whereabouts.process,
            started: Some(timestamp_to_wire(self.started)),
            url: self.whereabouts.url.clone(),
            socket: self.whereabouts.socket.display().to_string(),
            directory: self.whereabouts.directory.display().to_string(),
            bytes: stats.bytes,
            max_size: stats.max_size,
            blobs: stats.blobs,
            action_results: stats.results,
            upstreams: self.companion.upstreams().iter().map(|upstream| self.upstream(upstream)).collect(),
            refused: self.companion.refused().into_iter().map(refused).collect(),
            local_worker: self.companion.here().map(local_worker),
            sent_ahead,
            sent_ahead_used,
        }
    }

    fn upstream(&self, upstream: &Upstream) -> mortar_wire::companion::Upstream {
        let counts = &upstream.counts;
        mortar_wire::companion::Upstream {
            name: upstream.name.to_string(),
            address: upstream.uri.clone(),
            trouble: upstream.trouble().unwrap_or_default(),
            owed: Some(owed(self.companion.left_of(upstream))),
            sent_blobs: counts.sent_blobs.load(Ordering::Relaxed),
            sent_bytes: counts.sent_bytes.load(Ordering::Relaxed),
            sent_results: counts.sent_results.load(Ordering::Relaxed),
            found_blobs: counts.found_blobs.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            known: upstream.known(),
        }
    }
}

fn local_worker(here: &Here) -> LocalWorker {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let tally = here.tally.as_deref();
    let count = |of: fn(&Tally) -> &AtomicU64| tally.map_or(0, |tally| read(of(tally)));
    let compared = here.comparisons.as_deref();
    let (same, different, not_compared) = compared.map_or((0, 0, 0), Comparisons::counts);
    LocalWorker {
        mode: here.mode.to_string(),
        slots: here.slots,
        ran: here.local.ran(),
        won_here: count(|tally| &tally.local),
        won_upstream: count(|tally| &tally.remote),
        unraced: count(|tally| &tally.unraced),
        same,
        different,
        not_compared,
        not_reproducible: compared
            .map(|compared| compared.reports().into_iter().map(not_reproducible).collect())
            .unwrap_or_default(),
    }
}

fn not_reproducible(report: Report) -> NotReproducible {
    let Report { action, mnemonic, target, differences } = report;
    let differences = differences.iter().map(ToString::to_string).collect();
    NotReproducible { action: action.to_string(), mnemonic, target, differences }
}

fn owed(left: Left) -> Owed {
    let Left { blobs, results, bytes, since } = left;
    Owed { blobs, results, bytes, since: since.map(timestamp_to_wire) }
}

fn refused(refused: Refused) -> mortar_wire::companion::Refused {
    let Refused { upstream, what, why, at } = refused;
    mortar_wire::companion::Refused { upstream, what, why, at: Some(timestamp_to_wire(at)) }
}

fn refuse(error: &Error) -> Status {
    status::to_status(error)
}

#[tonic::async_trait]
impl companion_server::Companion for Service {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<CompanionStatus>, Status> {
        Ok(Response::new(self.status()))
    }

    async fn flush(&self, request: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
        let timeout = request.into_inner().timeout;
        let timeout = timeout.map(|timeout| duration_from_wire("timeout", timeout)).transpose();
        let Flushed { left, trouble, refused: dropped } =
            self.companion.flush(timeout.map_err(|error| refuse(&error))?).await;
        Ok(Response::new(FlushResponse {
            left: Some(owed(left)),
            trouble: trouble.unwrap_or_default(),
            refused: dropped.into_iter().map(refused).collect(),
        }))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let left = self.companion.left();
        self.stop.cancel();
        Ok(Response::new(StopResponse { left: Some(owed(left)) }))
    }

    async fn hand_over(
        &self,
        request: Request<HandOverRequest>,
    ) -> Result<Response<HandOverResponse>, Status> {
        let path = request.into_inner().path;
        let descriptors = self.sockets.each_ref().map(|spare| spare.descriptor().try_clone());
        let [tcp, unix] = descriptors.map(|copy| copy.map_err(|error| Error::io("copying a socket", error)));
        let pair = [tcp.map_err(|error| refuse(&error))?, unix.map_err(|error| refuse(&error))?];
        hand_over::give(path.into(), pair).await.map_err(|error| refuse(&error))?;
        self.sockets.iter().for_each(Spare::taken);
        tracing::info!("another companion takes over");
        self.stop.cancel();
        Ok(Response::new(HandOverResponse { process: self.whereabouts.process }))
    }
}
