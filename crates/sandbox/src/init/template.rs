//! The root that runs have in common: the host's system directories with a little of `/etc`, or all of an image; a
//! small `/dev`, and the places for what each run has for itself. Read-only as a whole.

use super::{
    Failure, Step, mounts,
    outside::{Host, Image, Shown},
};
use crate::{EXEC_ROOT, spec};
use nix::mount::MsFlags;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, chmod, makedev, mknodat, open, unlink},
    io::Errno,
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

/// Shown where the host has them.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What programs need of `/etc`, where the host has it. Names that end in `*` stand for all that begin so.
const ETC: [&str; 15] = [
    "alternatives",
    "crypto-policies",
    "fonts",
    "java-*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "mime.types",
    "os-release",
    "perl",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// Files of `/etc` that are the same on every worker.
const OWN_ETC: [(&str, &str); 4] = [
    (
        "passwd",
        "root:x:0:0:root:/root:/usr/sbin/nologin\nmortar:x:1000:1000:mortar:/tmp:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\nmortar:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost mortar\n::1 localhost\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// With the numbers by which Linux knows them.
const DEVICES: [(&str, (u32, u32)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Builds the root in a mount namespace made for it, and leaves nothing else there.
pub fn build(shown: &Shown) -> Result<(), Failure> {
    mounts::isolate()?;
    let base = base()?;
    // Opened before the new root is mounted, which may hide the way to it.
    let source = Source::open(shown)?;
    mounts::fresh("tmpfs", base, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
    match source {
        Source::Host(directories) => host(directories, base)?,
        Source::Image(opened) => image(Path::new(&format!("/proc/self/fd/{}", opened.as_raw_fd())), base)?,
    }
    for place in ["dev", "proc", "tmp"] {
        create_dir(&base.join(place))?;
    }
    create_dir(&below(base, Path::new(EXEC_ROOT)))?;
    for name in [spec::STDOUT, spec::STDERR] {
        create_file(&base.join("mortar").join(name))?;
    }
    mounts::seal(base)?;
    devices(&base.join("dev"))?;
    // A process in a user namespace may mount a `/proc` of its own only where it sees one already. The run's own
    // covers this one, for good: what was mounted by somebody mightier cannot be uncovered.
    mounts::bind(Path::new("/proc"), &base.join("proc"))?;
    mounts::pivot(base)
}

/// Where files come from, so that they can be reached whatever is mounted over them.
enum Source<'a> {
    Host(&'a [PathBuf]),
    Image(File),
}

impl<'a> Source<'a> {
    fn open(shown: &'a Shown) -> Result<Self, Failure> {
        match shown {
            Shown::Host(Host { directories, .. }) => Ok(Self::Host(directories)),
            Shown::Image(Image { path, .. }) => {
                File::open(path).map(Self::Image).step(|| format!("open the image `{}`", path.display()))
            }
        }
    }
}

/// A file system of its own for devices, which are refused everywhere else: each mount costs every run. Where none can
/// be made in it, which takes root of the whole machine, they are mounted from the host's.
fn devices(dev: &Path) -> Result<(), Failure> {
    mounts::fresh("tmpfs", dev, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=0755")?;
    for place in ["shm", "pts"] {
        create_dir(&dev.join(place))?;
    }
    for (name, to) in DEVICE_LINKS {
        symlink(to, dev.join(name)).step(|| format!("create the link `/dev/{name}`"))?;
    }
    let bound: Vec<_> =
        DEVICES.iter().filter(|(name, numbers)| make_device(&dev.join(name), *numbers).is_err()).collect();
    for (name, _) in &bound {
        create_file(&dev.join(name))?;
    }
    mounts::fix(dev)?;
    bound.iter().try_for_each(|(name, _)| mounts::bind(&Path::new("/dev").join(name), &dev.join(name)))
}

/// Leaves nothing where it fails.
fn make_device(path: &Path, (major, minor): (u32, u32)) -> Result<(), Errno> {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
    let usable = chmod(path, Mode::from_raw_mode(0o666)).and_then(|()| {
        // A terminal of ours there is none, which is then what it says.
        match open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(_) | Err(Errno::NXIO) => Ok(()),
            Err(errno) => Err(errno),
        }
    });
    if usable.is_err() {
        unlink(path)?;
    }
    usable
}

/// A directory that every host has, and that holds nothing we would show, to mount the new root on.
pub fn base() -> Result<&'static Path, Failure> {
    let candidates = ["/tmp", "/var/tmp", "/run", "/mnt"].map(Path::new);
    let found =
        candidates.into_iter().find(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()));
    found
        .ok_or(io::Error::from_raw_os_error(libc::ENOENT))
        .step(|| "find a directory to mount the root on".into())
}

fn host(directories: &[PathBuf], base: &Path) -> Result<(), Failure> {
    for directory in SYSTEM.iter().map(Path::new).chain(directories.iter().map(PathBuf::as_path)) {
        show(directory, base)?;
    }
    etc(base)?;
    create_dir(&base.join("etc"))?;
    for (name, text) in OWN_ETC {
        write_etc(base, name, text)?;
    }
    Ok(())
}

/// Shows what lies in an image, but for what is the sandbox's own.
fn image(image: &Path, base: &Path) -> Result<(), Failure> {
    for name in entries(image)? {
        if !OWN.iter().any(|own| name == *own) && name != "etc" {
            show_as(&image.join(&name), &base.join(&name))?;
        }
    }
    let etc = image.join("etc");
    // A link would be followed on the host here.
    let is_directory = fs::symlink_metadata(&etc).is_ok_and(|found| found.is_dir());
    let is_there = |name: &str| is_directory && fs::symlink_metadata(etc.join(name)).is_ok();
    let lacking: Vec<_> = OWN_ETC.iter().filter(|(name, _)| !is_there(name)).collect();
    if lacking.is_empty() {
        return show_as(&etc, &base.join("etc"));
    }
    create_dir(&base.join("etc"))?;
    for name in if is_directory { entries(&etc)? } else { Vec::new() } {
        show_as(&etc.join(&name), &base.join("etc").join(&name))?;
    }
    lacking.into_iter().try_for_each(|(name, text)| write_etc(base, name, text))
}

/// What of the root is never an image's.
const OWN: [&str; 4] = ["dev", "mortar", "proc", "tmp"];

fn entries(directory: &Path) -> Result<Vec<OsString>, Failure> {
    let step = || format!("list `{}`", directory.display());
    let entries = fs::read_dir(directory).step(step)?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).step(step)).collect()
}

fn write_etc(base: &Path, name: &str, text: &str) -> Result<(), Failure> {
    fs::write(base.join("etc").join(name), text).step(|| format!("write `/etc/{name}`"))
}

/// Shows a path of the host at the same place.
fn show(path: &Path, base: &Path) -> Result<(), Failure> {
    show_as(path, &below(base, path))
}

/// Shows a path: a directory or file bound, a link as that link, an absent one, or a device, not.
fn show_as(path: &Path, target: &Path) -> Result<(), Failure> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if found.is_symlink() {
        let to = fs::read_link(path).step(|| format!("read the link `{}`", path.display()))?;
        create_parent(target)?;
        return symlink(to, target).step(|| format!("create the link `{}`", target.display()));
    }
    if found.is_dir() {
        create_dir(target)?;
        return mounts::bind(path, target);
    }
    if found.is_file() { bind_file(path, target) } else { Ok(()) }
}

fn etc(base: &Path) -> Result<(), Failure> {
    let host = Path::new("/etc");
    for name in ETC {
        let Some(prefix) = name.strip_suffix('*') else {
            show_etc(&host.join(name), base)?;
            continue;
        };
        let entries = fs::read_dir(host).step(|| "list `/etc`".into())?;
        for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        {
            show_etc(&entry.path(), base)?;
        }
    }
    Ok(())
}

/// Shows a file as a copy where it is small: each mount costs every run. `Shown` tells when to copy anew.
fn show_etc(path: &Path, base: &Path) -> Result<(), Failure> {
    const SMALL: u64 = 1 << 20;
    let target = below(base, path);
    let found = fs::symlink_metadata(path);
    if found.is_ok_and(|found| found.is_file() && found.len() <= SMALL) {
        create_parent(&target)?;
        // What we may not read can still be shown.
        if fs::copy(path, &target).is_ok() {
            return Ok(());
        }
    }
    show(path, base)
}

fn bind_file(source: &Path, target: &Path) -> Result<(), Failure> {
    create_file(target)?;
    mounts::bind(source, target)
}

fn create_file(path: &Path) -> Result<(), Failure> {
    create_parent(path)?;
    fs::write(path, "").step(|| format!("create `{}`", path.display()))
}

fn create_parent(path: &Path) -> Result<(), Failure> {
    path.parent().map_or(Ok(()), create_dir)
}

fn create_dir(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).step(|| format!("create `{}`", path.display()))
}

/// An absolute path of the sandbox as it is reached before the root is entered.
pub fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}
