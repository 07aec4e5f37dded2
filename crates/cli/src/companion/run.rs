//! `mortar companion run`: becomes the companion, or finds the one that runs.

use super::{HomeFlags, access::Access, ask, local::LocalFlags};
use crate::{
    settings::{MIN_MAX_SIZE, default_max_size},
    signals,
    units::{Size, Span},
};
use anyhow::{Context, bail};
use mortar_companion::{
    Bounds, Companion, Settings, UpstreamAddress,
    life::{self, Home, Ownership, Sockets, Taken, Whereabouts, hand_over},
};
use mortar_model::{Error, InstanceName};
use mortar_remote::{Options, Retry, breaker};
use mortar_server::{LeaseTerms, bazelrc};
use mortar_services::listener::Address;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Output files up to this size come with results: Bazel reads them next, unless it is to download little.
const SMALL_OUTPUT: u64 = 16 << 10;
/// How long one that is started in the background may take until it answers.
const READY: Duration = Duration::from_secs(30);
/// What may be owed at most: blobs and results.
const MOST_OWED: u64 = 1_000_000;

/// Flags of `mortar companion run`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RunFlags {
    #[command(flatten)]
    pub(super) home: HomeFlags,
    /// A server behind it: grpc://HOST:PORT, grpcs://HOST:PORT (with TLS), unix:PATH, or an HTTP cache,
    /// http://[USER:PASSWORD@]HOST:PORT/PATH or https://… With NAME= before it, the one for that instance name and all
    /// that begin with NAME/. May be given more than once.
    #[arg(long, env = "MORTAR_UPSTREAM", value_name = "[NAME=]URL", value_delimiter = ',')]
    pub(super) upstream: Vec<String>,
    #[command(flatten)]
    access: Access,
    /// How much may be kept, such as 100GiB [default: 50GiB, or four fifths of a smaller disk].
    #[arg(long, value_name = "SIZE")]
    pub(super) max_size: Option<Size>,
    /// How much may wait to be uploaded [default: a quarter of what may be kept].
    #[arg(long, value_name = "SIZE")]
    max_owed: Option<Size>,
    /// Where to listen besides the unix socket: HOST:PORT [default: a port of 127.0.0.1 that stays the same].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// End when nobody has called for so long and nothing waits to be uploaded.
    #[arg(long, value_name = "DURATION", default_value = "3h")]
    idle_timeout: Option<Span>,
    /// For how long a server that does not say so is believed to keep what it has.
    #[arg(long, value_name = "DURATION", default_value = "10min")]
    foreign_lease: Option<Span>,
    /// Acknowledge a write only when it is upstream, as a CI runner may want that goes away after its build.
    #[arg(long)]
    write_through: bool,
    #[command(flatten)]
    local: LocalFlags,
    /// Take over from a companion that runs: it gives its sockets, finishes its calls and ends.
    #[arg(long)]
    replace: bool,
    /// Run in the background; return when it answers.
    #[arg(long)]
    detach: bool,
}

/// Serves until a signal comes, or nobody needs it; returns at once where another one does.
pub async fn run(arguments: RunFlags) -> anyhow::Result<()> {
    let home = arguments.home.home()?;
    let upstreams = parse_upstreams(&arguments.upstream)?;
    if arguments.detach {
        let living = match (home.living().await, arguments.replace) {
            (Some(living), false) => living,
            (before, _) => detach(&home, before.map(|before| before.process)).await?,
        };
        return found(&living, &upstreams).await;
    }
    let settings = settings(&arguments, &home, upstreams.clone())?;
    let listen: Option<Address> =
        arguments.listen.as_deref().map(str::parse).transpose().context("--listen")?;
    let (ownership, sockets) = match (home.living().await, arguments.replace) {
        (Some(living), true) => {
            let sockets = hand_over::take_over(&home, &living).await?;
            (home.succeed().await?, sockets)
        }
        _ => match home.take().await? {
            Taken::Theirs(living) => return found(&living, &upstreams).await,
            Taken::Ours(ownership) => {
                let sockets = Sockets::open(&home, listen.as_ref()).await?;
                (ownership, sockets)
            }
        },
    };
    let idle = arguments.idle_timeout.map_or(Duration::MAX, |span| span.0);
    serve(ownership, settings, sockets, idle, arguments.local).await
}

async fn serve(
    ownership: Ownership,
    settings: Settings,
    sockets: Sockets,
    idle: Duration,
    local: LocalFlags,
) -> anyhow::Result<()> {
    let planned = local.plan(&settings)?;
    let ready = |whereabouts: &Whereabouts, companion: &Arc<Companion>| {
        write_rc_files(whereabouts)?;
        if let Some(planned) = planned {
            tokio::spawn(planned.work(Arc::downgrade(companion)));
        }
        let mut out = std::io::stdout().lock();
        write!(out, "ready {}\n\n{}", whereabouts.url, bazelrc::lines(&whereabouts.url))
            .and_then(|()| out.flush())
            .map_err(|error| Error::io("telling that it is ready", error))
    };
    // It keeps the directory until the process has ended.
    let ownership = life::serve(ownership, settings, sockets, idle, signals::stop_token()?, ready).await?;
    std::mem::forget(ownership);
    Ok(())
}

/// A companion that runs already: where it is, if it is one that was asked for.
async fn found(living: &Whereabouts, upstreams: &[UpstreamAddress]) -> anyhow::Result<()> {
    let status = ask::status_of(living).await?;
    let theirs: BTreeSet<_> =
        status.upstreams.into_iter().map(|upstream| (upstream.name, upstream.address)).collect();
    let asked: BTreeSet<_> =
        upstreams.iter().map(|upstream| (upstream.name.to_string(), upstream.shown())).collect();
    if !asked.is_empty() && asked != theirs {
        let shown: Vec<_> = theirs.iter().map(|(name, address)| format!("{name}={address}")).collect();
        bail!(
            "the companion in `{}` runs with other upstreams: {}\nHint: have it replaced with --replace, or choose another directory with --dir",
            living.directory.display(),
            shown.join(", ")
        );
    }
    println!("ready {}", living.url);
    Ok(())
}

fn settings(arguments: &RunFlags, home: &Home, upstreams: Vec<UpstreamAddress>) -> anyhow::Result<Settings> {
    if upstreams.is_empty() {
        bail!("no server is named\nHint: name one with --upstream grpc://HOST:PORT");
    }
    let max_size = arguments.max_size.map_or_else(|| default_max_size(home.directory()), |size| size.0);
    if max_size < MIN_MAX_SIZE {
        bail!("--max-size is {}; at least {} is needed", Size(max_size), Size(MIN_MAX_SIZE));
    }
    let owed = arguments.max_owed.map_or(max_size / 4, |size| size.0);
    if owed > max_size / 2 {
        bail!("--max-owed is {}; at most half of --max-size, {}, is possible", Size(owed), Size(max_size));
    }
    Ok(Settings {
        directory: home.directory().to_owned(),
        max_size,
        leases: LeaseTerms::default(),
        upstreams,
        remote: Options {
            compression: true,
            small_outputs: Some(SMALL_OUTPUT),
            connect_timeout: Duration::from_secs(5),
            retry: Retry::BRIEF,
            tls: arguments.access.tls(),
            credentials: arguments.access.credentials()?,
            ..Options::default()
        },
        breaker: breaker::Terms::default(),
        foreign_lease: arguments.foreign_lease.map_or(Duration::ZERO, |span| span.0),
        owed: Bounds { entries: MOST_OWED, bytes: owed },
        write_through: arguments.write_through,
    })
}

/// `[NAME=]URL`, each name once.
pub(super) fn parse_upstreams(texts: &[String]) -> anyhow::Result<Vec<UpstreamAddress>> {
    let mut upstreams: Vec<UpstreamAddress> = Vec::new();
    for text in texts {
        let (name, uri) = match text.split_once('=') {
            Some((name, uri)) if !name.contains(':') => (name, uri),
            _ => ("", text.as_str()),
        };
        let name = InstanceName::parse(name).context("--upstream")?;
        if upstreams.iter().any(|known| known.name == name) {
            bail!("--upstream names two servers for instance `{name}`");
        }
        let address = UpstreamAddress { name, uri: uri.to_owned() };
        address.check().context("--upstream")?;
        upstreams.push(address);
    }
    Ok(upstreams)
}

/// Starts this program once more, on its own, and waits until it answers.
async fn detach(home: &Home, before: Option<u32>) -> anyhow::Result<Whereabouts> {
    let log = log(home)?;
    let file = fs::OpenOptions::new().create(true).append(true).open(&log);
    let file = file.with_context(|| format!("the log `{}` cannot be opened", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0);
    let mut child = command.spawn().context("the companion cannot be started")?;
    let until = Instant::now() + READY;
    loop {
        if let Some(living) = home.living().await.filter(|living| Some(living.process) != before) {
            return Ok(living);
        }
        if let Some(status) = child.try_wait()?.filter(|status| !status.success()) {
            bail!("the companion ended with {status}; its log is `{}`", log.display());
        }
        if Instant::now() >= until {
            bail!(
                "the companion does not answer after {} s; its log is `{}`",
                READY.as_secs(),
                log.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn log(home: &Home) -> anyhow::Result<PathBuf> {
    let directory = home.directory();
    fs::create_dir_all(directory)
        .with_context(|| format!("the directory `{}` cannot be made", directory.display()))?;
    Ok(directory.join("log"))
}

/// The lines that `tools/bazel` has Bazel read, as `mortar companion install` writes it.
const RC_FILES: [(&str, &str); 2] =
    [("cache.bazelrc", "--remote_cache"), ("execution.bazelrc", "--remote_executor")];

fn write_rc_files(whereabouts: &Whereabouts) -> mortar_model::Result<()> {
    for (name, flag) in RC_FILES {
        let path = whereabouts.directory.join(name);
        let fresh = path.with_extension("new");
        fs::write(&fresh, format!("build {flag}={}\n", whereabouts.url))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| Error::io(format!("writing `{}`", path.display()), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams() {
        let parse = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
            let shown = |upstream: &UpstreamAddress| format!("{} {}", upstream.name, upstream.shown());
            parse_upstreams(&texts).map(|upstreams| upstreams.iter().map(shown).collect::<Vec<_>>())
        };
        assert_eq!(parse(&["grpc://a:1"]).unwrap(), [" grpc://a:1"]);
        assert_eq!(
            parse(&["main/eu=grpc://a:1", "unix:/x=y"]).unwrap(),
            ["main/eu grpc://a:1", " unix:/x=y"]
        );
        assert_eq!(parse(&["web=https://me:secret@a/cache"]).unwrap(), ["web https://a/cache"]);
        for (bad, needle) in [
            (&["a:1"][..], "not spoken"),
            (&["a:1"], "an HTTP cache is given as"),
            (&["a//b=grpc://a:1"], "single slashes"),
            (&["grpc://a:1", "grpc://b:1"], "two servers for instance ``"),
        ] {
            let error = format!("{:#}", parse(bad).unwrap_err());
            assert!(error.contains(needle), "{error}");
        }
    }
}
