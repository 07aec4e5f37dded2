//! The port of blobs: each is the content of `/cas/HASH`.

use super::{
    HttpUpstream, Inner, check_function,
    exchange::{Answer, Ask},
    presence::Presence,
};
use async_trait::async_trait;
use http::Method;
use mortar_model::{
    Blame, Blob, BlobStore, Context, Digest, DigestFunction, DigestSet, Error, HashIndex, Kind, Range, Result,
};

/// Blobs up to this many bytes are held whole, so that they can be sent again, or are checked before anything is seen.
const SMALL: u64 = 1 << 20;

#[async_trait]
impl BlobStore for HttpUpstream {
    /// A whole blob is checked against its digest; a part of one cannot be, and is only checked for its length.
    async fn read(&self, context: &Context, digest: Digest, range: Range) -> Result<Blob> {
        check_function(digest.function())?;
        let (offset, length) = range.within(digest)?;
        if digest.is_empty() {
            return Ok(Blob::bytes(""));
        }
        if length == 0 {
            let missing = self.0.missing(context, &[digest].into_iter().collect()).await?;
            return if missing.is_empty() {
                Ok(Blob::bytes(""))
            } else {
                Err(Error::not_found("blob", digest))
            };
        }
        let blob = self.0.download(context, digest, offset, length).await?;
        let blob = if range.is_all_of(digest) { blob.verified(digest, Blame::Server)? } else { blob };
        if length <= SMALL { Ok(Blob::bytes(blob.into_bytes().await?)) } else { Ok(blob) }
    }

    /// What does not match is broken off before its end, by which servers know that it is to be thrown away. A large blob
    /// that comes as a stream is sent once.
    async fn write(&self, context: &Context, digest: Digest, blob: Blob) -> Result<()> {
        check_function(digest.function())?;
        let blob = blob.verified(digest, Blame::Client)?;
        if digest.size() == 0 {
            return Ok(());
        }
        let mut ask = Ask::new(Method::PUT, self.0.address.item(&context.instance, "cas", &digest.hex()));
        if digest.size() <= SMALL || blob.as_bytes().is_some() {
            ask.content = Some(blob.into_bytes().await?);
            return self.0.put(context, &ask).await;
        }
        let answer = self.0.send(context, &ask, digest.size(), blob.into_stream()).await?;
        self.0.taken(context, answer).await
    }

    async fn find_missing(&self, context: &Context, digests: &DigestSet) -> Result<DigestSet> {
        self.0.missing(context, digests).await
    }
}

#[async_trait]
impl HashIndex for HttpUpstream {
    /// Servers that tell no size cannot be asked so.
    async fn lookup(
        &self,
        context: &Context,
        function: DigestFunction,
        hash: &[u8; 32],
    ) -> Result<Option<Digest>> {
        check_function(function)?;
        let empty = Digest::empty(function);
        if hash == empty.hash() {
            return Ok(Some(empty));
        }
        let named = Digest::new(function, *hash, 0).hex();
        match self.0.presence(context, &named).await? {
            Presence::Missing => Ok(None),
            Presence::There(Some(size)) => Ok(Some(Digest::new(function, *hash, size))),
            Presence::There(None) => {
                let message =
                    format!("the cache at `{}` does not tell the size of blob `{named}`", self.address());
                Err(Error::new(Kind::Unimplemented { message }))
            }
        }
    }
}

impl Inner {
    /// The end of an upload.
    pub(super) async fn taken(&self, context: &Context, answer: Answer) -> Result<()> {
        match self.success(context, answer).await {
            Ok(answer) => {
                self.done(context, answer).await;
                Ok(())
            }
            // Not that something is missing, but that nothing can be put there.
            Err(error) if error.is_not_found() => {
                let message = format!("the cache at `{}` takes no uploads there", self.address);
                Err(Error::new(Kind::FailedPrecondition { message }).with_source(error))
            }
            Err(error) => Err(error),
        }
    }
}
