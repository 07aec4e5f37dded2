//! ByteStream.Write: content goes to the store in the pieces in which the connection brings it.

use super::{
    Service, broken, frame,
    message::{Head, Parser, Part},
    opened, signed, upload_id,
};
use crate::{budget::Budget, limits};
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mortar_model::{Context, Encoding, Error, Result, Upload};
use mortar_wire::{bytestream::WriteResponse, resource::Resource};
use std::convert::Infallible;

impl Service {
    pub(super) async fn write(&self, request: Request) -> Result<Response> {
        let (context, _, body) = opened(request);
        let committed_size = self.take(context, Parts::new(body)).await?;
        let answer = frame::framed(&WriteResponse { committed_size });
        let frames = [Frame::data(answer), Frame::trailers(frame::trailers(Ok(())))];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
        Ok(frame::response(Body::new(body)))
    }

    /// The committed size at the end: bytes as they are sent, compressed or not.
    async fn take(&self, context: Context, mut parts: Parts) -> Result<i64> {
        let first = match parts.next().await? {
            Some(Part::Head(head)) => head,
            _ => return Err(Error::invalid("resource_name", "the stream has no message")),
        };
        let name = first.resource_name.clone();
        let resource = self.served(Resource::parse_write(&name)?)?;
        let context = context.with_instance(resource.instance.clone());
        if self.has(&context, resource.digest).await? {
            return Ok(early_end(&resource));
        }
        let upload = self.open(&context, &resource, first.write_offset).await?;
        let budget = self.budget.clone();
        let mut writing = Writing { upload, budget, name, finished: false, again: 0 };
        let mut next = Some(Part::Head(first));
        while let Some(part) = next {
            writing.accept(part).await?;
            next = parts.next().await?;
        }
        writing.end().await.map(signed)
    }

    /// The upload that a stream goes on with. One in zstd that begins again need not bring the same frames as before:
    /// what was left of it is ended, which discards it if it was not whole.
    async fn open(&self, context: &Context, resource: &Resource, offset: i64) -> Result<Box<dyn Upload>> {
        let id = upload_id(resource);
        let open = || self.uploads.open(context, &id, resource.digest, resource.encoding);
        let upload = open().await?;
        if resource.encoding == Encoding::Zstd && offset == 0 && upload.committed() > 0 {
            if let Err(error) = upload.finish().await {
                tracing::debug!("an upload of blob `{}` is begun anew: {error}", resource.digest);
            }
            return open().await;
        }
        Ok(upload)
    }
}

/// What is told as committed where the blob is there already.
fn early_end(resource: &Resource) -> i64 {
    match resource.encoding {
        Encoding::Identity => signed(resource.digest.size()),
        // However many bytes it would have been.
        Encoding::Zstd => -1,
    }
}

/// The parts of a stream of messages, as they come.
struct Parts {
    body: Body,
    parser: Parser,
    input: Bytes,
}

impl Parts {
    fn new(body: Body) -> Self {
        Self { body, parser: Parser::new(limits::MAX_MESSAGE), input: Bytes::new() }
    }

    async fn next(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.parser.next(&mut self.input)? {
                return Ok(Some(part));
            }
            match self.body.frame().await {
                // Trailers of a request say nothing.
                Some(frame) => self.input = frame.map_err(broken)?.into_data().unwrap_or_default(),
                None => return self.parser.finish().map(|()| None),
            }
        }
    }
}

/// One upload as its messages come.
struct Writing {
    upload: Box<dyn Upload>,
    budget: Budget,
    name: String,
    finished: bool,
    /// How much of what comes in this message is committed already: a client that resumes may send some of it again.
    again: u64,
}

impl Writing {
    async fn accept(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Head(head) => self.begin(&head),
            Part::Data(data) => self.write(data).await,
            Part::End => Ok(()),
        }
    }

    fn begin(&mut self, head: &Head) -> Result<()> {
        if !head.resource_name.is_empty() && head.resource_name != self.name {
            let message =
                format!("the resource name changed from `{}` to `{}`", self.name, head.resource_name);
            return Err(Error::invalid("resource_name", message));
        }
        if self.finished {
            return Err(Error::invalid("finish_write", "a message follows the one that finished the write"));
        }
        self.finished = head.finish_write;
        let (offset, committed) = (head.write_offset, self.upload.committed());
        let again = u64::try_from(offset).ok().and_then(|offset| committed.checked_sub(offset));
        self.again = again.ok_or_else(|| {
            let message =
                format!("write_offset is {offset}; expected {committed}, which is committed so far");
            Error::invalid("write_offset", message).hint("ask QueryWriteStatus where to go on")
        })?;
        Ok(())
    }

    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        let again = usize::try_from(self.again).unwrap_or(usize::MAX).min(data.len());
        let fresh = data.split_off(again);
        self.again -= again as u64;
        if fresh.is_empty() {
            return Ok(());
        }
        // Held until the store has taken the bytes.
        let _share = self.budget.claim(fresh.len());
        self.upload.write(fresh).await
    }

    /// The bytes that are committed at the end of the stream.
    async fn end(self) -> Result<u64> {
        let committed = self.upload.committed();
        if self.finished {
            self.upload.finish().await?;
        }
        Ok(committed)
    }
}
