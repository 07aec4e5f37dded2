//! Uploads that come as zstd frames, into any intake: an encoding is settled when an upload is opened, and does not
//! concern where the blob goes.

use crate::{frames::Inflate, intake::Intake};
use bytes::Bytes;
use mortar_model::{Digest, Encoding, Result};

/// An intake of a blob's content, behind whatever decodes what is sent of it.
pub(crate) enum Incoming<I> {
    /// The content as it is.
    Identity(I),
    /// zstd frames.
    Zstd(Inflating<I>),
}

impl<I: Intake> Incoming<I> {
    /// Decodes `encoding` into `content`, an intake of this blob.
    pub fn new(content: I, digest: Digest, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Identity => Self::Identity(content),
            Encoding::Zstd => {
                let inflate = Inflate::new(digest.size());
                Self::Zstd(Inflating { content, inflate, digest })
            }
        }
    }
}

impl<I: Intake> Intake for Incoming<I> {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        match self {
            Self::Identity(content) => content.take(pieces),
            Self::Zstd(inflating) => inflating.take(pieces),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Identity(content) => content.finish(),
            Self::Zstd(inflating) => inflating.finish(),
        }
    }
}

/// Decompresses what it takes into another intake.
pub(crate) struct Inflating<I> {
    content: I,
    inflate: Inflate,
    digest: Digest,
}

impl<I: Intake> Intake for Inflating<I> {
    fn take(&mut self, pieces: &[Bytes]) -> Result<()> {
        for piece in pieces {
            let mut frames = &piece[..];
            while let Some(content) =
                self.inflate.next(&mut frames).map_err(|flaw| flaw.of_upload(self.digest))?
            {
                self.content.take(&[content])?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.inflate.finish().map_err(|flaw| flaw.of_upload(self.digest))?;
        self.content.finish()
    }
}
