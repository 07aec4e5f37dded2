//! `/cas/HASH`: blobs, as they are or as zstd.

use super::{
    HttpCache, Item, content, content_length, encoding, octets,
    range::{self, Asked},
    text,
};
use crate::{call, content::Content};
use axum::{body::Body, extract::Request, response::Response};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mortar_model::{
    Blob, ByteStream, Context, Digest, DigestFunction, Encoding, Error, Range, Result, UploadId,
    context::Lost,
};

impl HttpCache {
    pub(super) async fn get_blob(
        &self,
        context: &Context,
        item: &Item,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let hash = item.hash()?;
        let context = &Context { lost: Lost::Remade, ..context.clone() };
        let found = self.ports.index.lookup(context, DigestFunction::Sha256, &hash.hash).await?;
        let digest = found.ok_or_else(|| Error::not_found("blob", hash.hex()))?;
        if method == Method::HEAD {
            return Ok(self.varied(content(digest.size(), Body::empty())));
        }
        // Parts are of the content, and so not compressed: of a part of frames nobody could say where it lies.
        match range::asked(headers, digest.size()) {
            Asked::Whole => {}
            Asked::Beyond => return Ok(range::none(digest.size())),
            Asked::Part(start, length) => {
                let blob = self.ports.blobs.read(context, digest, range::of(start, length)).await?;
                let part = content(length, self.outgoing(blob.into_stream()));
                return Ok(self.varied(range::tell(part, start, length, digest.size())));
            }
        }
        let zstd = encoding::accepts_zstd(headers) && !headers.contains_key(header::RANGE);
        if let Some(encoded) = self.ports.encoded.as_ref().filter(|_| zstd) {
            let mut response = octets(self.outgoing(encoded.read_zstd(context, digest, Range::ALL).await?));
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
            return Ok(self.varied(response));
        }
        let blob = self.ports.blobs.read(context, digest, Range::ALL).await?;
        Ok(self.varied(content(digest.size(), self.outgoing(blob.into_stream()))))
    }

    pub(super) async fn put_blob(
        &self,
        context: &Context,
        item: &Item,
        request: Request,
    ) -> Result<Response> {
        let hash = item.hash()?;
        let length = content_length(request.headers())?;
        let encoding = encoding::of_body(request.headers());
        let size = match encoding {
            Encoding::Identity => length,
            Encoding::Zstd if self.ports.encoded.is_some() => encoding::content_size(request.headers())?,
            Encoding::Zstd => {
                let message = "zstd is not served; send the blob uncompressed";
                return Err(Error::invalid(header::CONTENT_ENCODING.as_str(), message));
            }
        };
        let digest = Digest::new(DigestFunction::Sha256, hash.hash, size);
        let known = self.ports.blobs.find_missing(context, &[digest].into_iter().collect()).await?.is_empty();
        let mut body = self.body(request);
        match encoding {
            // The client would take an answer before its last byte for a broken connection.
            _ if known => while body.try_next().await?.is_some() {},
            Encoding::Identity => self.ports.blobs.write(context, digest, Blob::stream(length, body)).await?,
            Encoding::Zstd => self.put_zstd(context, digest, body).await?,
        }
        Ok(text(StatusCode::OK, String::new()))
    }

    async fn put_zstd(&self, context: &Context, digest: Digest, mut body: ByteStream) -> Result<()> {
        let id = UploadId(format!("http|{}", uuid::Uuid::new_v4()).into());
        let mut upload = self.ports.uploads.open(context, &id, digest, Encoding::Zstd).await?;
        loop {
            let sent = match body.try_next().await {
                Ok(Some(frames)) => upload.write(frames).await,
                Ok(None) => return upload.finish().await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // Nobody comes back for it: ended as it is, it is discarded.
                let _ = upload.finish().await;
                return Err(error);
            }
        }
    }

    fn outgoing(&self, stream: ByteStream) -> Body {
        let content = Content::new(stream, self.budget.clone());
        Body::from_stream(content.into_stream().inspect_err(call::log))
    }

    /// Says that the answer depends on what the client takes, if it does.
    fn varied(&self, mut response: Response) -> Response {
        if self.ports.encoded.is_some() {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        response
    }
}
