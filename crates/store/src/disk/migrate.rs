//! What a store of the first format left: its blobs are taken over one by one, in the background, each checked as any
//! that comes in. Its results and values are forgotten: they do not tell what they need, nor whose they are.

use super::{Shared, intake::Arriving, key::Key};
use crate::intake::Intake;
use bytes::Bytes;
use mortar_model::{Digest, DigestFunction, Kind, Result};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes that are read in one go.
const STEP: usize = 1 << 20;

impl Shared {
    /// Takes over what there is, unless the store is closed meanwhile; the next run goes on then.
    pub(super) fn migrate(self: &Arc<Self>) {
        let old = self.layout.old();
        if !old.exists() {
            return;
        }
        tracing::info!("taking over the blobs of a store of the first format");
        let mut taken = 0_u64;
        for function in DigestFunction::ALL {
            for path in listed(&old.join("blobs").join(function.name())).iter().flat_map(|path| listed(path))
            {
                if self.keeper.is_stopped() {
                    return;
                }
                match self.take_over(function, &path) {
                    Ok(()) => taken += 1,
                    Err(error) if matches!(error.kind(), Kind::ResourceExhausted { .. }) => {
                        return tracing::warn!(
                            "the rest of the old store's blobs wait for the next start: {error}"
                        );
                    }
                    Err(error) => tracing::warn!("a blob of the old store is left out: {error}"),
                }
                let _ = fs::remove_file(&path);
            }
        }
        if let Err(error) = fs::remove_dir_all(&old) {
            tracing::warn!(%error, "what is left of the old store could not be removed");
        }
        tracing::info!(blobs = taken, "the old store is taken over");
    }

    fn take_over(self: &Arc<Self>, function: DigestFunction, path: &Path) -> Result<()> {
        let failed = |error| mortar_model::Error::io("reading a blob of the old store", error);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let digest = Digest::parse(function, name, length.cast_signed())?;
        let stamp = self.leases.own_stamp();
        if digest.is_empty() || self.has(&Key::of(digest), length, stamp) {
            return Ok(());
        }
        let mut arriving = Arriving::begin(self.clone(), digest, stamp)?;
        loop {
            let mut piece = vec![0; STEP];
            match file.read(&mut piece).map_err(failed)? {
                0 => return arriving.finish(),
                read => {
                    piece.truncate(read);
                    arriving.take(&[Bytes::from(piece)])?;
                }
            }
        }
    }
}

fn listed(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
