//! `mortar.lookahead.v1`: what followed an action in builds before, as it is in the action cache now.

use super::{
    Trails,
    block::{Block, Name},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use mortar_model::{
    ActionCache, ActionKey, ActionResult, BlobStore, BlobStoreExt, Context, Digest, DigestFunction,
    InstanceName, Result,
};
use mortar_services::call;
use mortar_wire::{
    digest_to_wire,
    look_ahead::{
        Coming, FollowRequest, SmallBlob, follow_request,
        look_ahead_server::{LookAhead, LookAheadServer},
    },
    required_digest, result_to_wire,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Results at most in one call, and what comes along of their blobs, whatever the client asks for.
const MAX_RESULTS: u32 = 4_096;
const MAX_BLOB: u64 = 256 << 10;
const MAX_BYTES: u64 = 64 << 20;
/// Blocks that are read in one call. A value may be put by anybody who may write, so a trail may lead in circles.
const MAX_BLOCKS: usize = 256;
/// Results that are read at the same time.
const AT_ONCE: usize = 16;

/// Sends what is likely to be asked for.
#[derive(Clone)]
pub(crate) struct Service {
    trails: Trails,
    actions: Arc<dyn ActionCache>,
    blobs: Arc<dyn BlobStore>,
}

/// The service over trails, complete results and their blobs.
pub(crate) fn service(
    trails: Trails,
    actions: Arc<dyn ActionCache>,
    blobs: Arc<dyn BlobStore>,
) -> LookAheadServer<Service> {
    LookAheadServer::new(Service { trails, actions, blobs })
}

/// A place in a trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    block: Name,
    /// The next action.
    place: u16,
}

impl Cursor {
    fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(34);
        bytes.put_slice(&self.block);
        bytes.put_u16_le(self.place);
        bytes.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (block, place) = bytes.split_first_chunk::<32>()?;
        Some(Self { block: *block, place: u16::from_le_bytes(place.try_into().ok()?) })
    }
}

impl Service {
    async fn start(
        &self,
        context: &Context,
        function: DigestFunction,
        from: Option<follow_request::From>,
    ) -> Result<Option<Cursor>, Status> {
        match from {
            Some(follow_request::From::Cursor(bytes)) => {
                let cursor = Cursor::decode(&bytes);
                cursor
                    .map(Some)
                    .ok_or_else(|| Status::invalid_argument("the cursor is none of this server's"))
            }
            Some(follow_request::From::ActionDigest(digest)) => {
                let digest =
                    required_digest("action_digest", function, Some(digest)).map_err(call::refuse)?;
                let found = self.trails.find(&context.instance, ActionKey::from(digest)).await;
                let after = |(block, place): (Block, usize)| Cursor {
                    block: block.name,
                    place: u16::try_from(place + 1).unwrap_or(u16::MAX),
                };
                Ok(found.map_err(call::refuse)?.map(after))
            }
            None => Err(Status::invalid_argument("the field `from` is absent")),
        }
    }

    /// Every action from a place on, with the place after it.
    fn keys(&self, instance: InstanceName, from: Cursor) -> BoxStream<'static, Result<(ActionKey, Cursor)>> {
        let trails = self.trails.clone();
        let blocks = stream::try_unfold(from, move |at| {
            let (trails, instance) = (trails.clone(), instance.clone());
            async move { rest_of_block(&trails, &instance, at).await }
        });
        blocks
            .take(MAX_BLOCKS)
            .map_ok(|keys| stream::iter(keys.into_iter().map(Result::Ok)))
            .try_flatten()
            .boxed()
    }

    /// The result of an action with its small blobs, in order of its outputs.
    async fn coming(
        &self,
        context: &Context,
        key: ActionKey,
        cursor: Cursor,
        largest: u64,
    ) -> Option<Coming> {
        let result = match self.actions.get(context, key).await {
            Ok(found) => found?,
            Err(error) => {
                tracing::debug!(%error, ?key, "a result that may be asked for cannot be read");
                return None;
            }
        };
        let mut blobs = Vec::new();
        for digest in wanted(&result).filter(|digest| digest.size() <= largest) {
            if let Ok(data) = self.blobs.read_all(context, digest, largest).await {
                blobs.push(SmallBlob { digest: Some(digest_to_wire(digest)), data });
            }
        }
        Some(Coming {
            action_digest: Some(digest_to_wire(Digest::new(key.function, key.hash, 0))),
            result: Some(result_to_wire(&result)),
            blobs,
            cursor: cursor.encode(),
        })
    }
}

/// The actions of a block from a place on, each with the place after it, and where the next block begins; nothing where
/// the trail ends.
async fn rest_of_block(
    trails: &Trails,
    instance: &InstanceName,
    at: Cursor,
) -> Result<Option<(Vec<(ActionKey, Cursor)>, Cursor)>> {
    let Some(Block { name, next, keys }) = trails.block(instance, at.block).await? else { return Ok(None) };
    let after = |place| Cursor { block: name, place: u16::try_from(place + 1).unwrap_or(u16::MAX) };
    let keys = keys.into_iter().enumerate().skip(at.place.into());
    let rest = keys.map(|(place, key)| (key, after(place))).collect();
    Ok(Some((rest, Cursor { block: next, place: 0 })))
}

/// What a client reads of a result.
fn wanted(result: &ActionResult) -> impl Iterator<Item = Digest> {
    let logs = result.stdout_digest.into_iter().chain(result.stderr_digest);
    let trees = result.directories.iter().filter_map(|directory| directory.tree_digest);
    logs.chain(trees).chain(result.files.iter().map(|file| file.digest))
}

#[tonic::async_trait]
impl LookAhead for Service {
    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<tonic::codegen::BoxStream<Coming>>, Status> {
        let (headers, _, request) = request.into_parts();
        let context = call::context(&headers, &request.instance_name)?;
        let function = mortar_wire::digest_function(request.digest_function).map_err(call::refuse)?;
        let Some(start) = self.start(&context, function, request.from).await? else {
            return Ok(Response::new(Box::pin(stream::empty())));
        };
        let (largest, bytes) = (request.max_blob_bytes.min(MAX_BLOB), request.max_bytes.min(MAX_BYTES));
        let results = request.max_results.min(MAX_RESULTS) as usize;
        let service = self.clone();
        let keys = self.keys(context.instance.clone(), start).map_err(call::refuse);
        let keys = keys.try_filter(move |(key, _)| std::future::ready(key.function == function));
        let coming = keys
            .map_ok(move |(key, cursor)| {
                let (service, context) = (service.clone(), context.clone());
                async move { Ok(service.coming(&context, key, cursor, largest).await) }
            })
            .try_buffered(AT_ONCE)
            .try_filter_map(|coming| std::future::ready(Ok(coming)))
            .take(results);
        let mut left = bytes;
        let bounded = coming.map_ok(move |mut coming| {
            coming.blobs.retain(|blob| {
                let size = blob.data.len() as u64;
                let fits = size <= left;
                left -= if fits { size } else { 0 };
                fits
            });
            coming
        });
        Ok(Response::new(Box::pin(bounded)))
    }
}
