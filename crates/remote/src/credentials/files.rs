//! Files that hold secrets.

use mortar_model::{Error, Result};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// More than any of these files has.
const LARGEST: u64 = 1 << 20;

/// The text of a file, read off the reactor. `what` names it in messages.
pub(super) async fn read(what: &'static str, path: &Path) -> Result<String> {
    let path = path.to_path_buf();
    let read = tokio::task::spawn_blocking(move || read_now(what, &path));
    read.await.unwrap_or_else(|_| Err(Error::internal("reading a file was broken off")))
}

fn read_now(what: &str, path: &Path) -> Result<String> {
    let failed = |error| Error::io(format!("reading {what} `{}`", path.display()), error);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.take(LARGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if size as u64 > LARGEST {
        let message = format!("{what} `{}` is larger than {LARGEST} bytes", path.display());
        return Err(Error::invalid("credentials", message));
    }
    Ok(text)
}

/// Whether this failed because there is no such file.
pub(super) fn is_absent(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// The user's home.
pub(super) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}
