//! GetTree: every directory below a root, breadth first, each once, in pages.
//!
//! A page token is the number of directories that were sent before it: the walk of an immutable tree is always the
//! same, so a continued call walks it again and leaves out what the client has.

use crate::limits;
use futures::{Stream, TryStreamExt};
use mortar_model::{BlobStore, BlobStoreExt, Context, Digest, DigestSet, Error, Kind, Result};
use mortar_wire::{
    Functioned, directory_from_wire,
    reapi::{self, GetTreeRequest, GetTreeResponse},
    required_digest,
};
use prost::Message;
use std::{collections::VecDeque, sync::Arc};

/// A walk in progress.
pub(crate) struct Pages {
    context: Context,
    blobs: Arc<dyn BlobStore>,
    /// Seen, and still to be read.
    seen: DigestSet,
    queue: VecDeque<Digest>,
    /// Directories to leave out yet.
    skip: usize,
    sent: usize,
    page: usize,
    /// The root, read ahead so that its absence is the answer to the call.
    root: Option<reapi::Directory>,
}

impl Pages {
    /// Begins a walk. A root that is absent or malformed is an error.
    pub(crate) async fn open(
        context: Context,
        blobs: Arc<dyn BlobStore>,
        request: GetTreeRequest,
    ) -> Result<Self> {
        let function = request.function()?;
        let root = required_digest("root_digest", function, request.root_digest)?;
        let skip = if request.page_token.is_empty() {
            0
        } else {
            let malformed = || {
                Error::invalid(
                    "page_token",
                    format!("`{}` is no page token of this server", request.page_token),
                )
            };
            request.page_token.parse().map_err(|_| malformed())?
        };
        let page = match usize::try_from(request.page_size) {
            Ok(0) => limits::TREE_PAGE,
            Ok(size) => size.min(limits::TREE_PAGE),
            Err(_) => {
                let message = format!("the page size is {}; expected 0 or more", request.page_size);
                return Err(Error::invalid("page_size", message));
            }
        };
        let mut pages = Self {
            context,
            blobs,
            seen: [root].into_iter().collect(),
            queue: VecDeque::new(),
            skip,
            sent: 0,
            page,
            root: None,
        };
        pages.root = Some(pages.read(root).await?);
        Ok(pages)
    }

    /// The pages as they are made.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<GetTreeResponse>> + Send {
        futures::stream::try_unfold(Some(self), |walk| async move {
            let Some(mut walk) = walk else { return Ok(None) };
            let (response, more) = walk.next_page().await?;
            Ok(Some((response, more.then_some(walk))))
        })
        .into_stream()
    }

    async fn next_page(&mut self) -> Result<(GetTreeResponse, bool)> {
        let mut directories = Vec::new();
        let mut bytes = 0;
        while directories.len() < self.page && bytes < limits::CHUNK {
            let Some(directory) = self.next().await? else { break };
            self.sent += 1;
            if self.sent > self.skip {
                bytes += directory.encoded_len();
                directories.push(directory);
            }
        }
        let more = !self.queue.is_empty();
        let next_page_token = if more { self.sent.to_string() } else { String::new() };
        Ok((GetTreeResponse { directories, next_page_token }, more))
    }

    /// The next directory of the walk. One that is missing is left out, as the protocol has it.
    async fn next(&mut self) -> Result<Option<reapi::Directory>> {
        if let Some(root) = self.root.take() {
            return Ok(Some(root));
        }
        while let Some(digest) = self.queue.pop_front() {
            match self.read(digest).await {
                Ok(directory) => return Ok(Some(directory)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn read(&mut self, digest: Digest) -> Result<reapi::Directory> {
        let bytes = self.blobs.read_all(&self.context, digest, limits::MAX_PROTO_BLOB).await?;
        let directory = reapi::Directory::decode(bytes).map_err(|error| {
            Error::invalid("root_digest", format!("blob `{digest}` is no Directory message: {error}"))
        })?;
        let checked = directory_from_wire(digest.function(), directory.clone())?;
        checked
            .check()
            .map_err(|error| Error::invalid("directory", format!("directory `{digest}`: {error}")))?;
        for child in checked.directories {
            if self.seen.insert(child.digest) {
                self.queue.push_back(child.digest);
            }
        }
        if self.seen.len() > limits::MAX_TREE_DIRECTORIES {
            let message = format!("the tree has more than {} directories", limits::MAX_TREE_DIRECTORIES);
            return Err(Error::new(Kind::ResourceExhausted { message, retry_after: None }));
        }
        Ok(directory)
    }
}
