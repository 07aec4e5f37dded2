//! What this machine permits is tried before the first action comes.

use crate::{WorkerConfig, blocking::blocking, cache::DirectoryCache, scratch::Scratch};
use mortar_model::{Error, Kind, Result};
use mortar_sandbox::{Isolation, Layers, Sandbox, Spec};
use std::path::Path;

/// Tries the sandbox in a directory made for that.
pub async fn probe(scratch: &Scratch, sandbox: &Sandbox) -> Result<Layers> {
    let directory = scratch.directory().await?;
    let (probed, within) = (sandbox.clone(), directory.clone());
    let layers = blocking(move || {
        probed
            .probe(&within)
            .map_err(|error| Error::new(Kind::FailedPrecondition { message: error.to_string() }))
    });
    let layers = layers.await;
    scratch.remove(directory).await;
    layers
}

/// The cache of input roots, if the kernel lets the sandbox lay directories over each other, and us hide what they hold.
pub async fn open_cache(
    config: &WorkerConfig,
    scratch: &Scratch,
    sandbox: &Sandbox,
) -> Result<Option<DirectoryCache>> {
    let Some(limits) = config.cache.filter(|_| config.sandbox.isolation == Isolation::Namespaces) else {
        return Ok(None);
    };
    let directory = scratch.directory().await?;
    let (probed, within) = (sandbox.clone(), directory.clone());
    let refused = blocking(move || {
        let tried = try_layers(&probed, &within);
        Ok(tried.unwrap_or_else(|error| Some(error.to_string())))
    });
    let refused = refused.await;
    scratch.remove(directory).await;
    if let Some(why) = refused? {
        tracing::info!(why, "no overlay for us here; each action gets an input root made of links");
        return Ok(None);
    }
    DirectoryCache::open(&scratch.cache(), limits).map(Some)
}

fn try_layers(sandbox: &Sandbox, directory: &Path) -> std::io::Result<Option<String>> {
    let lower = ["lower1", "lower2"].map(|name| directory.join(name));
    for path in lower.iter().chain([&directory.join("exec")]) {
        std::fs::create_dir(path)?;
    }
    crate::cache::hide(&lower[0].join("hidden"))?;
    let lower = ["lower1", "lower2"].map(Into::into).to_vec();
    let spec = Spec { directory: directory.into(), lower, ..Spec::default() };
    let layers = sandbox.probe_lower(spec).map_err(std::io::Error::other)?;
    Ok((!layers.complete()).then(|| layers.to_string()))
}
