//! The scenario `mix`: the calls of a build in their proportions, blobs with the sizes of a build's.

use super::{
    actions, blobs,
    content::{Mint, Random},
    load::{Done, Failure, Load, Worker},
    sizes::{ASKED, Call, SIZES, call},
    target::{Target, describe},
};
use anyhow::{Context, Result, anyhow};
use mortar_model::Digest;
use std::sync::Arc;

/// Blobs of each size that are kept to be read.
const KEPT: usize = 4;

struct Mix {
    writes: Vec<blobs::StreamWrite>,
    reads: Vec<(Digest, blobs::StreamRead)>,
    find: blobs::FindMissing,
    put: actions::Put,
    get: actions::Get,
}

/// As Bazel does it: each blob on a stream of its own.
pub(super) async fn mix(target: &Target) -> Result<Arc<dyn Load>> {
    let writes: Vec<_> = SIZES.map(|size| blobs::stream_write(target, size)).into();
    let (mut reads, mut random) = (Vec::new(), Random::new());
    for number in 0..KEPT * SIZES.len() {
        let sent = writes[number % SIZES.len()].send(&mut target.filler(number), &mut random).await;
        let digest =
            sent.map_err(|status| anyhow!(describe(&status))).context("writing what is to be read")?;
        reads.push((digest, blobs::StreamRead::of(target, digest)));
    }
    let present = reads.iter().map(|(digest, _)| *digest).collect();
    let find = blobs::FindMissing::of(target, present, ASKED);
    let (put, get) =
        (actions::prepare_put(target.client(0), target).await?, actions::prepare_get(target).await?);
    Ok(Arc::new(Mix { writes, reads, find, put, get }))
}

#[tonic::async_trait]
impl Load for Mix {
    async fn call(&self, worker: &mut Worker) -> Result<Done, Failure> {
        let done = match call(&mut worker.random) {
            Call::GetResult => self.get.call(worker).await?,
            Call::PutResult => self.put.call(worker).await?,
            Call::FindMissing => self.find.call(worker).await?,
            Call::Write => self.writes[worker.random.below(self.writes.len())].call(worker).await?,
            Call::Read => self.reads[worker.random.below(self.reads.len())].1.call(worker).await?,
        };
        Ok(Done { items: 1, ..done })
    }
}

/// Makes blobs with the sizes of a build's.
pub(super) struct Sizes(Vec<Mint>);

impl Sizes {
    pub(super) fn new(mint: impl Fn(usize) -> Mint) -> Self {
        Self(SIZES.iter().map(|size| mint(*size)).collect())
    }

    /// A mint of one of the sizes, each as likely.
    pub(super) fn draw(&self, random: &mut Random) -> &Mint {
        &self.0[random.below(self.0.len())]
    }

    pub(super) fn all(&self) -> &[Mint] {
        &self.0
    }
}
