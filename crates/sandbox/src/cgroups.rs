//! Limits and accounts of a whole tree of processes, by control groups: each helper, and so all that it runs, is in a
//! group of its own for each controller that there is. A group is kept for as long as its helper, since making one and
//! moving processes costs more than a run.
//!
//! A controller is used by version 2 where our own group may pass it on, by version 1 where it is mounted and we may
//! write there, and else not at all: what then takes its place is `init/process.rs`'s.

use crate::{Limit, spec::Limits};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Where groups can be made here.
#[derive(Clone, Debug, Default)]
pub struct Hierarchies {
    memory: Option<Place>,
    processes: Option<Place>,
    cpu: Option<Place>,
}

/// Our own group for one controller, in which we may make others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Processes of ours in a group of version 2 that passes controllers on: no group of that kind may hold any itself.
const OURSELVES: &str = "mortar-itself";

impl Hierarchies {
    /// Finds them, and removes what processes left there that are gone.
    pub fn find() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let found = Self::among(&read("mountinfo"), &read("cgroup"));
        for place in found.places() {
            remove_stale(&place.path);
        }
        found
    }

    fn among(mounts: &str, groups: &str) -> Self {
        let second = second(mounts, groups);
        let place = |controller: &str| {
            let of_second = second.as_ref().filter(|path| passes_on(path, controller));
            let of_second = of_second.map(|path| Place { version: Version::Two, path: path.clone() });
            of_second.or_else(|| first(mounts, groups, controller))
        };
        Self { memory: place("memory"), processes: place("pids"), cpu: place("cpu") }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.memory, &self.processes, &self.cpu].into_iter().flatten()
    }

    /// What is limited by other means, or not at all.
    pub fn lacking(&self) -> impl Iterator<Item = &'static str> {
        [(&self.memory, "memory"), (&self.processes, "processes"), (&self.cpu, "cpu")]
            .into_iter()
            .filter_map(|(place, name)| place.is_none().then_some(name))
    }
}

/// Our group in the hierarchy of version 2.
fn second(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (mount, root) = mounts.lines().find_map(|line| mounted(line, |kind, _| kind == "cgroup2"))?;
    below(&mount, &root, own)
}

/// Our group for this controller in a hierarchy of version 1, if we may make groups there.
fn first(mounts: &str, groups: &str, controller: &str) -> Option<Place> {
    let has = |list: &str| list.split(',').any(|name| name == controller);
    let own = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        has(controllers).then_some(path)
    })?;
    let (mount, root) =
        mounts.lines().find_map(|line| mounted(line, |kind, options| kind == "cgroup" && has(options)))?;
    let path = below(&mount, &root, own)?;
    let writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).is_ok();
    writable.then_some(Place { version: Version::One, path })
}

/// Mount point and root of a line of `mountinfo`, if kind and options of the file system are right.
fn mounted(line: &str, right: impl Fn(&str, &str) -> bool) -> Option<(PathBuf, String)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let (fields, mut kind) = (mount.split(' ').collect::<Vec<_>>(), file_system.split(' '));
    let (kind, options) = (kind.next()?, kind.nth(1)?);
    right(kind, options).then(|| Some((PathBuf::from(*fields.get(4)?), (*fields.get(3)?).to_owned())))?
}

fn below(mount: &Path, root: &str, own: &str) -> Option<PathBuf> {
    let inside = own.strip_prefix(root.trim_end_matches('/')).unwrap_or(own);
    let path = mount.join(inside.trim_start_matches('/'));
    path.is_dir().then_some(path)
}

/// Whether groups made in this one have the controller, by our doing if need be.
fn passes_on(group: &Path, controller: &str) -> bool {
    let lists = |name: &str| {
        let list = fs::read_to_string(group.join(name)).unwrap_or_default();
        list.split_whitespace().any(|known| known == controller)
    };
    if !lists("cgroup.controllers") {
        return false;
    }
    let enable = || fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    if lists("cgroup.subtree_control") || enable().is_ok() {
        return true;
    }
    let aside = group.join(OURSELVES);
    let moved = fs::create_dir_all(&aside)
        .and_then(|()| fs::write(aside.join("cgroup.procs"), std::process::id().to_string()));
    moved.and_then(|()| enable()).is_ok()
}

/// Removes groups that are named after processes that are gone.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        if process.is_some_and(|(process, _)| !Path::new("/proc").join(process).exists()) {
            // What still has processes in it stays.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

const PREFIX: &str = "mortar-run-";

/// The groups of one helper.
#[derive(Debug)]
pub struct Group {
    memory: Option<Memory>,
    processes: Option<Processes>,
    cpu: Option<Cpu>,
    /// What was last written.
    limits: Limits,
    directories: Vec<PathBuf>,
}

#[derive(Debug)]
struct Memory {
    version: Version,
    path: PathBuf,
    peak: File,
    events: File,
    /// At the start of the run: what was in use, and how often something was killed.
    before: (u64, u64),
}

#[derive(Debug)]
struct Processes {
    path: PathBuf,
    events: File,
    before: u64,
}

#[derive(Debug)]
struct Cpu {
    version: Version,
    path: PathBuf,
}

/// What the groups tell of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The most memory at any time.
    pub peak_memory: u64,
    /// A limit that something was refused or killed for.
    pub exceeded: Option<Limit>,
}

/// The helper and pid 1 are in the group, too.
const OWN_PROCESSES: u32 = 2;

impl Group {
    /// Makes the groups of a helper, and puts it there.
    pub fn new(hierarchies: &Hierarchies, helper: u32) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mut group = Self {
            memory: None,
            processes: None,
            cpu: None,
            limits: Limits::default(),
            directories: Vec::new(),
        };
        for place in hierarchies.places() {
            let path = place.path.join(&name);
            if group.directories.contains(&path) {
                continue;
            }
            fs::create_dir(&path)?;
            group.directories.push(path.clone());
            fs::write(path.join("cgroup.procs"), helper.to_string())?;
        }
        let at = |place: &Place| (place.version, place.path.join(&name));
        group.memory = hierarchies.memory.as_ref().map(|place| Memory::open(at(place))).transpose()?;
        group.processes =
            hierarchies.processes.as_ref().map(|place| Processes::open(at(place).1)).transpose()?;
        group.cpu = hierarchies.cpu.as_ref().map(at).map(|(version, path)| Cpu { version, path });
        Ok(group)
    }

    /// Applies the limits of the next run, and remembers the counters. What is left in `limits` is for others to apply.
    pub fn begin(&mut self, limits: &mut Limits) -> io::Result<()> {
        let asked = limits.clone();
        if let Some(memory) = &mut self.memory {
            if asked.memory != self.limits.memory {
                memory.limit(asked.memory)?;
            }
            memory.begin()?;
            limits.memory = None;
        }
        if let Some(processes) = &mut self.processes {
            if asked.processes != self.limits.processes {
                let most = asked.processes.map_or("max".into(), |most| (most + OWN_PROCESSES).to_string());
                fs::write(processes.path.join("pids.max"), most)?;
            }
            processes.before = counter(&processes.events, "max")?;
            limits.processes = None;
        }
        if let Some(cpu) = &self.cpu
            && (asked.cpu_millis, asked.cpu_weight) != (self.limits.cpu_millis, self.limits.cpu_weight)
        {
            cpu.limit(&asked)?;
        }
        self.limits = asked;
        Ok(())
    }

    /// What was used since, and which limit was met.
    pub fn end(&self) -> io::Result<Account> {
        let mut account = Account::default();
        if let Some(processes) = &self.processes
            && counter(&processes.events, "max")? > processes.before
        {
            account.exceeded = Some(Limit::Processes);
        }
        if let Some(memory) = &self.memory {
            let (peak, kills) = (memory.peak()?, memory.kills()?);
            account.peak_memory = peak.saturating_sub(memory.before.0);
            if kills > memory.before.1 {
                account.exceeded = Some(Limit::Memory);
            }
        }
        Ok(account)
    }

    /// Removes the groups, once the helper is gone.
    pub fn remove(&self) {
        for directory in &self.directories {
            // What cannot be removed now, the next start will.
            fs::remove_dir(directory).ok();
        }
    }
}

impl Memory {
    fn open((version, path): (Version, PathBuf)) -> io::Result<Self> {
        let (peak, events) = match version {
            Version::One => ("memory.max_usage_in_bytes", "memory.oom_control"),
            Version::Two => ("memory.peak", "memory.events"),
        };
        // Version 2 can be reset since 6.12, for whoever has the file open; before, it tells the most of all runs.
        let peak = path.join(peak);
        let peak = OpenOptions::new().read(true).write(true).open(&peak).or_else(|_| File::open(&peak))?;
        let events = File::open(path.join(events))?;
        Ok(Self { version, path, peak, events, before: (0, 0) })
    }

    fn limit(&self, most: Option<u64>) -> io::Result<()> {
        match self.version {
            Version::One => {
                let most = most.map_or("-1".into(), |most| most.to_string());
                fs::write(self.path.join("memory.limit_in_bytes"), &most)?;
                // What may not be in memory may not be in swap either, where that is counted.
                let swap = self.path.join("memory.memsw.limit_in_bytes");
                fs::write(swap, most).or_else(absent)
            }
            Version::Two => {
                let most = most.map_or("max".into(), |most| most.to_string());
                fs::write(self.path.join("memory.max"), &most)?;
                let swap = if most == "max" { "max" } else { "0" };
                fs::write(self.path.join("memory.swap.max"), swap).or_else(absent)
            }
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        // Where it cannot be reset, the most so far is what the difference is taken to.
        (&self.peak).write_all(b"0").ok();
        self.before = (self.peak()?, self.kills()?);
        Ok(())
    }

    fn peak(&self) -> io::Result<u64> {
        let text = text(&self.peak)?;
        text.trim().parse().map_err(|_| io::Error::other(format!("`{text}` is no amount of memory")))
    }

    fn kills(&self) -> io::Result<u64> {
        counter(&self.events, "oom_kill")
    }
}

impl Processes {
    fn open(path: PathBuf) -> io::Result<Self> {
        let events = File::open(path.join("pids.events"))?;
        Ok(Self { path, events, before: 0 })
    }
}

impl Cpu {
    fn limit(&self, limits: &Limits) -> io::Result<()> {
        const PERIOD: u64 = 100_000;
        let quota = limits.cpu_millis.map(|millis| (u64::from(millis) * PERIOD / 1000).max(1000));
        let weight = u64::from(limits.cpu_weight.unwrap_or(100).clamp(1, 10_000));
        let write = |name: &str, text: String| fs::write(self.path.join(name), text);
        match self.version {
            Version::One => {
                write("cpu.shares", (weight * 1024 / 100).max(2).to_string())?;
                let quota = quota.map_or("-1".into(), |quota| quota.to_string());
                write("cpu.cfs_quota_us", quota).or_else(absent)
            }
            Version::Two => {
                write("cpu.weight", weight.to_string())?;
                let quota = quota.map_or("max".into(), |quota| quota.to_string());
                write("cpu.max", format!("{quota} {PERIOD}"))
            }
        }
    }
}

/// Not every kernel has every file.
fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The number after this word in a list of counters.
fn counter(file: &File, name: &str) -> io::Result<u64> {
    let text = text(file)?;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    found.ok_or_else(|| io::Error::other(format!("there is no `{name}` among the counters `{text}`")))
}

fn text(file: &File) -> io::Result<String> {
    let mut bytes = [0; 4096];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_second_version_is_preferred_where_it_is_delegated() {
        let root = tree(&[
            ("two/own/cgroup.controllers", "cpu memory"),
            ("two/own/cgroup.subtree_control", "memory"),
            ("one/pids/own/pids.max", ""),
            ("one/memory/own/x", ""),
        ]);
        let at = |name: &str| root.path().join(name);
        let mounts = format!(
            "30 1 0:2 / {} rw - cgroup2 cgroup2 rw\n31 1 0:3 / {} rw shared:9 - cgroup cgroup rw,pids\n\
             32 1 0:4 /out {} rw - cgroup cgroup rw,memory\n",
            at("two").display(),
            at("one/pids").display(),
            at("one/memory").display()
        );
        let groups = "3:pids:/own\n4:memory:/out/own\n0::/own\n";
        let found = Hierarchies::among(&mounts, groups);
        let two = Place { version: Version::Two, path: at("two/own") };
        assert_eq!(found.memory, Some(two.clone()));
        // It was not passed on, but could be.
        assert_eq!(
            (&found.cpu, fs::read_to_string(at("two/own/cgroup.subtree_control")).unwrap()),
            (&Some(two), "+cpu".into())
        );
        assert_eq!(found.processes, Some(Place { version: Version::One, path: at("one/pids/own") }));
        fs::write(at("two/own/cgroup.controllers"), "").unwrap();
        let found = Hierarchies::among(&mounts, groups);
        assert_eq!(found.memory, Some(Place { version: Version::One, path: at("one/memory/own") }));
        assert_eq!(found.lacking().collect::<Vec<_>>(), ["cpu"]);
        assert_eq!(Hierarchies::among("", "").lacking().count(), 3);
    }

    #[test]
    fn the_second_version_is_told_its_limits_and_asked_for_its_counts() {
        let root = tree(&[
            ("memory.peak", "1000\n"),
            ("memory.events", "low 0\noom 0\noom_kill 1\noom_group_kill 0\n"),
            ("pids.events", "max 0\n"),
        ]);
        let at = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        let mut group = Group {
            memory: Some(Memory::open((Version::Two, root.path().into())).unwrap()),
            processes: Some(Processes::open(root.path().into()).unwrap()),
            cpu: Some(Cpu { version: Version::Two, path: root.path().into() }),
            limits: Limits::default(),
            directories: Vec::new(),
        };
        let mut limits = Limits {
            memory: Some(1 << 20),
            processes: Some(10),
            cpu_millis: Some(1500),
            ..Limits::default()
        };
        group.begin(&mut limits).unwrap();
        assert_eq!(limits, Limits { cpu_millis: Some(1500), ..Limits::default() });
        assert_eq!([at("memory.max"), at("memory.swap.max"), at("pids.max")], ["1048576", "0", "12"]);
        assert_eq!([at("cpu.max"), at("cpu.weight")], ["150000 100000", "100"]);
        fs::write(root.path().join("pids.events"), "max 1\n").unwrap();
        assert_eq!(group.end().unwrap().exceeded, Some(Limit::Processes));
        fs::write(root.path().join("memory.events"), "oom_kill 2\n").unwrap();
        assert_eq!(group.end().unwrap().exceeded, Some(Limit::Memory));
        group.begin(&mut Limits::default()).unwrap();
        assert_eq!([at("memory.max"), at("pids.max"), at("cpu.max")], ["max", "max", "max 100000"]);
    }
}
