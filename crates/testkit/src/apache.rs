//! Apache's httpd with WebDAV: a foreign HTTP cache, which keeps whatever is put and checks nothing. Over HTTP/1.1 and, if
//! asked for, HTTP/2 with prior knowledge.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Running, free_port, wait_until};
use crate::tools;

const READY: Duration = Duration::from_secs(20);
/// Who it runs as where it is started by root, as whom it would not serve.
const NOBODY: u32 = 65534;
/// The only user, where one is asked for, and the password.
pub const USER: &str = "builder";
/// With a character in it that addresses have to escape.
pub const PASSWORD: &str = "open:sesame";
/// The hash of it, as `htpasswd -s` makes it.
const HASH: &str = "{SHA}k5A+xr53n4Lxr/w+OtkhllTIZrk=";

/// A running httpd.
#[derive(Debug)]
pub struct Apache {
    _running: Running,
    address: String,
    dir: PathBuf,
}

/// How a cache is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// It speaks HTTP/2 too.
    pub http2: bool,
    /// It serves [`USER`] alone.
    pub password: bool,
}

impl Apache {
    /// A cache in `dir`, with the collections `ac` and `cas`, each also below the given paths.
    pub fn cache(dir: &Path, terms: Terms, paths: &[&str]) -> Result<Apache> {
        let root = dir.join("root");
        let is_root = rustix::process::geteuid().is_root();
        for path in paths.iter().chain(&[""]) {
            for space in ["ac", "cas"] {
                fs::create_dir_all(root.join(path).join(space))?;
            }
        }
        let port = free_port()?;
        fs::write(dir.join("users"), format!("{USER}:{HASH}\n"))?;
        fs::write(dir.join("httpd.conf"), configuration(dir, port, terms))?;
        let mut command = Command::new(tools::apache()?);
        // One process: killing it leaves none behind.
        command.arg("-X").arg("-f").arg(dir.join("httpd.conf"));
        if is_root {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
            give_away(dir)?;
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut running = Running::start(&mut command)?;
        let address = format!("127.0.0.1:{port}");
        wait_until("httpd to listen", READY, || match running.ended()? {
            Some(status) => bail!("httpd ended: {status}"),
            None => Ok(TcpStream::connect(&address).is_ok().then_some(())),
        })
        .with_context(|| running.stderr().unwrap_or_default())?;
        Ok(Apache { _running: running, address, dir: dir.to_owned() })
    }

    /// `HOST:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its values are files.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What it has said.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("error.log"))?)
    }
}

fn give_away(path: &Path) -> Result<()> {
    chown(path, Some(NOBODY), Some(NOBODY))
        .with_context(|| format!("cannot give `{}` away", path.display()))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path())?;
        }
    }
    Ok(())
}

fn configuration(dir: &Path, port: u16, terms: Terms) -> String {
    let modules = [
        "mpm_event",
        "authz_core",
        "authz_user",
        "authn_core",
        "authn_file",
        "auth_basic",
        "dav",
        "dav_fs",
        "http2",
    ];
    let modules: String = modules
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let dir = dir.display();
    let protocols = if terms.http2 { "h2c http/1.1" } else { "http/1.1" };
    let access = if terms.password {
        format!("AuthType Basic\nAuthName cache\nAuthUserFile {dir}/users\nRequire valid-user")
    } else {
        "Require all granted".to_owned()
    };
    format!(
        "{modules}ServerRoot {dir}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {dir}/pid\n         ErrorLog {dir}/error.log\nProtocols {protocols}\nThreadsPerChild 64\nMaxKeepAliveRequests 0\n         DocumentRoot {dir}/root\nDavLockDB {dir}/locks\n         <Directory {dir}/root>\nDav On\n{access}\n</Directory>\n"
    )
}
