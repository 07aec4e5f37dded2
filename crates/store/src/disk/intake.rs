//! How the content of a blob comes in, whole or piece by piece: what is small is gathered and appended to a segment,
//! what is large goes into a file.

use super::{
    Shared,
    files::Sink,
    frame::Role,
    key::Key,
    leases::Stamp,
    log::{Append, answered_blocking},
    room::Reservation,
};
use crate::{
    blocking::hop,
    intake::{Intake, stream_into},
};
use bytes::{Bytes, BytesMut};
use mortar_model::{Blame, Blob, Digest, Encoding, Error, Result};
use std::sync::Arc;

/// Content of at most so many bytes goes into segments.
pub(super) const SMALL: u64 = 128 * 1024;
/// Content of at most so many bytes is hashed where it stands: a hop to another thread would take longer.
const AT_ONCE: u64 = 32 * 1024;

/// Takes the content of one blob.
pub(super) enum Arriving {
    Small(Gathering),
    Large(Box<Sink>),
}

impl Arriving {
    /// Blocks.
    pub fn begin(shared: Arc<Shared>, digest: Digest, stamp: Stamp) -> Result<Self> {
        match digest.size() <= SMALL {
            true => Ok(Self::Small(Gathering { shared, digest, stamp, bytes: BytesMut::new() })),
            false => Sink::create(shared, digest, stamp).map(|sink| Self::Large(Box::new(sink))),
        }
    }
}

impl Intake for Arriving {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        match self {
            Self::Small(gathering) => gathering.take(pieces),
            Self::Large(sink) => sink.take(pieces),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Small(gathering) => gathering.finish(),
            Self::Large(sink) => sink.finish(),
        }
    }
}

/// A small blob as it comes.
pub(super) struct Gathering {
    shared: Arc<Shared>,
    digest: Digest,
    stamp: Stamp,
    bytes: BytesMut,
}

impl Intake for Gathering {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            let length = self.bytes.len() + piece.len();
            if length as u64 > self.digest.size() {
                return Err(Error::mismatch(self.digest, format!("at least {length} bytes"), Blame::Client));
            }
            self.bytes.extend_from_slice(piece);
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let content = self.bytes.freeze();
        verify(self.digest, &content)?;
        if self.digest.is_empty() {
            return Ok(());
        }
        let mut room = Reservation::none(self.shared.clone());
        room.reach(content.len() as u64)?;
        let append = Append::content(self.digest, Encoding::Identity, content, self.stamp);
        let answer = self.shared.log.append([append]).pop().expect("one was handed in");
        answered_blocking(answer).map(drop)
    }
}

impl Append {
    /// A small blob.
    pub fn content(digest: Digest, encoding: Encoding, payload: Bytes, stamp: Stamp) -> Self {
        let (role, key, size) = (Role::Content, Key::of(digest), digest.size());
        Self { role, key, encoding, size, payload, blocks: 0, incompressible: false, stamp, instead_of: None }
    }
}

fn verify(digest: Digest, content: &[u8]) -> Result<()> {
    let actual = Digest::of(digest.function(), content);
    match actual == digest {
        true => Ok(()),
        false => Err(Error::mismatch(digest, actual.to_string(), Blame::Client)),
    }
}

impl Shared {
    /// Keeps a blob, unless it is here.
    pub(super) async fn write_blob(self: &Arc<Self>, digest: Digest, blob: Blob, stamp: Stamp) -> Result<()> {
        if blob.len() != digest.size() {
            return Err(Error::mismatch(digest, format!("{} bytes", blob.len()), Blame::Client));
        }
        if digest.is_empty() || self.has(&Key::of(digest), digest.size(), stamp) {
            return Ok(());
        }
        self.check_fits(digest.size())?;
        if digest.size() > SMALL {
            let shared = self.clone();
            let arriving = hop(move || Arriving::begin(shared, digest, stamp)).await?;
            return stream_into(arriving, blob).await;
        }
        let content = blob.into_bytes().await?;
        let content = match digest.size() <= AT_ONCE {
            true => verify(digest, &content).map(|()| content)?,
            false => hop(move || verify(digest, &content).map(|()| content)).await?,
        };
        self.append(Append::content(digest, Encoding::Identity, content, stamp)).await.map(drop)
    }

    /// Keeps a small blob as the frames that it comes in, where they are shorter; any other as its content.
    pub(super) async fn write_frames(
        self: &Arc<Self>,
        digest: Digest,
        frames: Bytes,
        content: Bytes,
        stamp: Stamp,
    ) -> Result<()> {
        if digest.size() > SMALL || frames.len() as u64 >= digest.size() {
            return self.write_blob(digest, Blob::bytes(content), stamp).await;
        }
        if self.has(&Key::of(digest), digest.size(), stamp) {
            return Ok(());
        }
        verify(digest, &content)?;
        self.append(Append::content(digest, Encoding::Zstd, frames, stamp)).await.map(drop)
    }
}
