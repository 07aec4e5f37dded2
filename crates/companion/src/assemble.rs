//! A companion put together. Reading this is reading the deployment:
//!
//! ```text
//! services ── blobs:    near ──┬── disk
//!          │                   ├── journal ── ferry ── upstream
//!          │                   └── single flight ── read-through ── disk, upstream
//!          ├─ results:  near results ──┬── completeness (here and known) ── results ── disk
//!          │                           ├── journal ── ferry ── upstream
//!          │                           └── upstream
//!          ├─ values:   named values ── disk
//!          └─ executor: places ──┬── near results ── inputs ── ferry ── upstream
//!                                └── a worker here, if there is one
//! ```
//!
//! What upstreams are known to have stands beside all of it (`knowledge`).

use crate::{
    activity::Activity,
    debts::{self, Bounds, Debts, Flushed, Left, Payers, Refused},
    execute::Executes,
    ferry::Ferry,
    here::{Here, Mode, Places, WorkerPorts},
    inputs::Inputs,
    knowledge::Knowledge,
    near::{Arriving, Encoded, Hashes, Near, Uploads},
    offered::Offered,
    renew,
    results::NearResults,
    terms::TermsBook,
    upstream::{Upstream, UpstreamAddress, Upstreams},
};
use axum::Router;
use mortar_model::{Clock, Codec, Context, Executor, Platform, Result, SystemClock};
use mortar_remote::{
    Options,
    breaker::{self, Standing},
};
use mortar_services::{Operations, Ports};
use mortar_store::{DiskConfig, DiskStore, Journal, LeaseTerms, NamedValues, Policy, Results, StoreStats};
use mortar_wire::Protobuf;
use parking_lot::Mutex;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a companion needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where everything is kept.
    pub directory: PathBuf,
    /// How many bytes the local cache may take.
    pub max_size: u64,
    /// For how long its promises hold.
    pub leases: LeaseTerms,
    /// The servers behind it.
    pub upstreams: Vec<UpstreamAddress>,
    /// How to talk to them.
    pub remote: Options,
    /// By what they are judged.
    pub breaker: breaker::Terms,
    /// For how long what a server calls present is believed to stay, if it does not say so itself.
    pub foreign_lease: Duration,
    /// What may be owed.
    pub owed: Bounds,
    /// A write is not acknowledged before it is upstream.
    pub write_through: bool,
}

/// The parts of a companion.
pub struct Companion {
    store: Arc<DiskStore>,
    near: Near,
    results: NearResults,
    places: Places,
    upstreams: Arc<Upstreams>,
    debts: Arc<Debts>,
    payers: Payers,
    renewing: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    operations: Operations,
    ports: Ports,
    activity: Activity,
}

impl Companion {
    /// Opens the store and puts everything on top of it; what is owed from before is paid from now on. Nothing is listened
    /// to yet. Must be called inside a runtime.
    pub fn assemble(settings: Settings) -> Result<Self> {
        let codec: Arc<dyn Codec> = Arc::new(Protobuf);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let directory = &settings.directory;
        let disk = DiskConfig { directory: directory.join("store"), max_size: settings.max_size };
        let store = DiskStore::open_with(disk, Policy { leases: settings.leases, ..Policy::default() })?;

        let knowledge = Arc::new(Knowledge::open(&directory.join("knowledge"), clock.clone())?);
        let terms = Arc::new(TermsBook::open(directory.join("upstreams.json"), settings.foreign_lease));
        let upstreams = Arc::new(Upstreams::new(&settings, &knowledge, &terms)?);

        let (journal, owed) = Journal::open(directory)?;
        let debts = Arc::new(Debts::new(debts::Parts {
            journal,
            owed,
            holds: store.clone(),
            codec: codec.clone(),
            upstreams: upstreams.clone(),
            index: store.clone(),
            bounds: settings.owed,
            write_through: settings.write_through,
        }));
        let here = Arriving::new(store.clone());
        let ferry = Ferry::new(Arc::new(here.clone()));

        let near = Near::new(here, upstreams.clone(), debts.clone());
        let kept = Arc::new(Results::new(store.clone(), codec.clone()));
        let results = NearResults::new(near.clone(), kept, codec.clone(), upstreams.clone(), debts.clone());
        let inputs = Inputs::new(near.clone(), ferry.clone(), clock.clone());
        let executes = Arc::new(Executes::new(results.clone(), inputs, upstreams.clone()));
        let places = Places::new(executes, near.clone(), results.clone(), upstreams.clone(), clock.clone());
        let executor = Arc::new(places.clone());
        let (hashes, blobs, actions) = Hashes::watching(&near, Arc::new(results.clone()), codec);
        let ports = Ports {
            blobs,
            encoded: Some(Arc::new(Encoded::new(near.clone()))),
            actions,
            uploads: Arc::new(Uploads::new(store.clone(), debts.clone())),
            index: Arc::new(hashes),
            values: Arc::new(NamedValues::new(store.clone(), clock)),
            chunks: None,
            executor: Some(executor.clone()),
            lease: None,
            offers: Some(Arc::new(Offered::new(upstreams.clone(), places.clone()))),
        };
        let stop = CancellationToken::new();
        let renewing = tokio::spawn(renew::run(knowledge, upstreams.clone(), stop.clone()));
        Ok(Self {
            payers: debts::pay(&debts, &ferry),
            store,
            near,
            results,
            places,
            upstreams,
            debts,
            renewing: Mutex::new(Some(renewing)),
            stop,
            operations: Operations::new(executor),
            ports,
            activity: Activity::default(),
        })
    }

    /// Everything that is served to clients. `more` brings services of the process's own.
    pub fn router(&self, more: Router) -> Router {
        mortar_services::router(&self.ports, Some(self.operations.clone()), more).layer(self.activity.clone())
    }

    /// Asks upstreams what they offer before the first client needs that, so that they are connected to by then.
    pub fn greet(&self) {
        for upstream in self.upstreams.all().iter().cloned() {
            let context = Context::internal().with_instance(upstream.name.clone());
            // What is not told now is asked again.
            tokio::spawn(async move { upstream.current_terms(&context).await });
        }
    }

    /// What a worker on this machine reads and writes.
    pub fn worker_ports(&self, mode: Mode) -> WorkerPorts {
        WorkerPorts::new(mode, &self.near, &self.results)
    }

    /// From now on this worker takes actions, so many at a time, that ask for no more than it offers.
    pub fn work_here(&self, worker: Arc<dyn Executor>, slots: u32, offered: Platform, mode: Mode) {
        self.places.work_here(worker, slots, offered, mode);
    }

    /// The worker on this machine.
    pub(crate) fn here(&self) -> Option<&Here> {
        self.places.here()
    }

    /// Results that upstreams sent ahead, and those of them that were asked for.
    pub fn sent_ahead(&self) -> (u64, u64) {
        self.results.sent_ahead()
    }

    /// Whether it is used.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// How the local cache is doing.
    pub fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// What is owed to all upstreams.
    pub fn left(&self) -> Left {
        self.debts.left(None)
    }

    /// What is owed to one of them.
    pub(crate) fn left_of(&self, upstream: &Upstream) -> Left {
        self.debts.left(Some(upstream.index))
    }

    /// What upstreams refused lately.
    pub fn refused(&self) -> Vec<Refused> {
        self.debts.refused()
    }

    /// How the breakers of the upstreams stand, by the upstream's name.
    pub fn standings(&self) -> Vec<(String, Standing)> {
        let of = |upstream: &Arc<Upstream>| (upstream.name.to_string(), upstream.breaker.standing());
        self.upstreams.all().iter().map(of).collect()
    }

    /// Whether what is owed can be paid, as far as is known.
    pub fn can_pay(&self) -> bool {
        let owes = |upstream: &&Arc<Upstream>| self.left_of(upstream) != Left::default();
        self.upstreams.all().iter().filter(owes).any(|upstream| upstream.takes_writes())
    }

    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        self.upstreams.all()
    }

    /// Waits until all that is owed by now is upstream or refused, or until the time is over.
    pub async fn flush(&self, timeout: Option<Duration>) -> Flushed {
        self.debts.flush(timeout).await
    }

    /// Ends what goes on in the background. Calls must have ended by now; what is owed stays in the journal.
    pub async fn close(&self) {
        self.results.settle().await;
        self.near.settle().await;
        self.payers.stop().await;
        self.stop.cancel();
        let renewing = self.renewing.lock().take();
        if let Some(renewing) = renewing {
            // It saves what is known at its end.
            let _ = renewing.await;
        }
    }
}
