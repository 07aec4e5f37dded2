//! Debian's ccache as a client of Bazel's HTTP cache. What it keeps below `/ac/` are values of its own, not
//! action results.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process;
use crate::tools;

const LIMIT: Duration = Duration::from_secs(60);

/// A ccache with an empty local cache.
#[derive(Debug)]
pub struct Ccache {
    storage: String,
    dir: tempfile::TempDir,
}

impl Ccache {
    /// `url` is `http://HOST:PORT/`, perhaps with more attributes behind a `|`.
    pub fn new(url: &str) -> Result<Ccache> {
        Ok(Ccache { storage: format!("{url}|layout=bazel"), dir: tempfile::tempdir()? })
    }

    /// Compiles a C file and gives the object file's content.
    pub fn compile(&self, source: &Path) -> Result<Vec<u8>> {
        let object = self.dir.path().join("out.o");
        let mut command = self.command()?;
        command.arg(tools::c_compiler()?).arg("-c").arg(source).arg("-o").arg(&object);
        let finished = process::run(&mut command, LIMIT)?;
        ensure!(finished.status.success(), "ccache: {}\n{}", finished.status, finished.stderr);
        std::fs::read(&object).with_context(|| format!("cannot read `{}`", object.display()))
    }

    /// ccache's counters since it was made: `remote_storage_hit`, `remote_storage_miss`, `remote_storage_error`, …
    pub fn statistics(&self) -> Result<HashMap<String, u64>> {
        let finished = process::run(self.command()?.arg("--print-stats"), LIMIT)?;
        ensure!(finished.status.success(), "ccache: {}\n{}", finished.status, finished.stderr);
        Ok(parse(&finished.stdout))
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(tools::ccache()?);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path());
        command.env("CCACHE_DIR", self.dir.path().join("cache")).env("CCACHE_REMOTE_STORAGE", &self.storage);
        command.current_dir(self.dir.path());
        Ok(command)
    }
}

/// One `NAME\tCOUNT` a line.
fn parse(listing: &str) -> HashMap<String, u64> {
    let fields = listing.lines().filter_map(|line| line.split_once('\t'));
    fields.filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?))).collect()
}
