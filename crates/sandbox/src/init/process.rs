//! The last steps before the command: its identity, rights, limits and descriptors; then `exec`. All of it is made ready
//! in the helper, since the child shares its memory (`sharing.rs`).

use super::{
    Failure, Plan, Step, namespaces,
    seccomp::Filter,
    sharing::{self, FirstSteps, Stack, Told},
};
use crate::{Isolation, spec};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
    unistd::Pid,
};
use rustix::{
    fs::{Access, FileType, Mode, OFlags, access, fcntl_setfl, open, stat},
    io::Errno,
    process::{Resource, Rlimit, chdir, getrlimit, setrlimit, setsid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::OnceLock,
};

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Descriptors that a command may open, unless the host allows fewer.
const OPEN_FILES: u64 = 65_536;

/// A command, ready to be started.
#[derive(Debug)]
pub struct Command {
    /// Where the programme may be, the likelier places first.
    programmes: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    directory: CString,
    /// Standard input, where that is not empty.
    input: Option<File>,
    /// What it becomes where it is not that yet.
    identity: Option<u32>,
    /// What each of its processes may use.
    limits: Vec<(Resource, u64)>,
    /// What it may not do, where it is isolated.
    restrictions: Option<Restrictions>,
}

#[derive(Debug)]
struct Restrictions {
    /// The last capability that this kernel knows.
    last_capability: u32,
    filter: Filter,
}

/// Strings as `exec` takes them.
#[derive(Debug)]
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Command {
    /// Makes it ready to start below `exec`.
    pub fn new(plan: &Plan, exec: &Path) -> Result<Self, Failure> {
        let spec = &plan.spec;
        let ready = || -> io::Result<Self> {
            let environment = spec.environment.iter().map(|(name, value)| format!("{name}={value}"));
            Ok(Self {
                programmes: candidates(plan).map(CString::new).collect::<Result<_, _>>()?,
                arguments: Strings::new(spec.arguments.iter().cloned())?,
                environment: Strings::new(environment)?,
                directory: CString::new(exec.join(&spec.working_directory).as_os_str().as_bytes())?,
                input: spec.converses.then(input).transpose()?,
                identity: plan.owner.map(|_| namespaces::INSIDE),
                limits: limits(plan),
                restrictions: (plan.isolation == Isolation::Namespaces).then(Restrictions::new),
            })
        };
        ready().step(|| "prepare the command".into())
    }
}

impl Command {
    /// Tells the caller of a command that converses that its inputs are covered, and waits for it to say that others are
    /// there; or for anything on the socket, since that ends the run.
    pub fn announce(&self, socket: BorrowedFd<'_>) {
        let Some(input) = &self.input else { return };
        let pipe = open(spec::STDOUT, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        // It can only fail where the caller is gone.
        pipe.and_then(|pipe| rustix::io::write(pipe, b"\n")).ok();
        let mut fds = [input.as_fd(), socket].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        while poll(&mut fds, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
        if fds[0].any() == Some(true) {
            rustix::io::read(input, &mut [0]).ok();
        }
    }
}

impl Restrictions {
    fn new() -> Self {
        Self { last_capability: last_capability(), filter: Filter::last() }
    }
}

impl Command {
    /// Leaves this process only the system calls that the command may make.
    pub fn restrict(&self) -> Result<(), Errno> {
        let Some(restrictions) = &self.restrictions else { return Ok(()) };
        restrictions.filter.install().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))
    }
}

impl Strings {
    fn new(strings: impl Iterator<Item = String>) -> io::Result<Self> {
        let owned = strings.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers = owned.iter().map(|string| string.as_ptr());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        Ok(Self { _owned: owned, pointers })
    }
}

/// Limits that the kernel holds each process to; that of processes counts those of one identity in one user namespace,
/// which is the run.
fn limits(plan: &Plan) -> Vec<(Resource, u64)> {
    let asked = [
        (Resource::Core, Some(0)),
        (Resource::Nofile, Some(OPEN_FILES)),
        (Resource::Fsize, plan.limits.output),
        (Resource::Data, plan.limits.memory),
        (
            Resource::Nproc,
            plan.limits.processes.filter(|_| plan.isolation == Isolation::Namespaces).map(u64::from),
        ),
    ];
    asked.into_iter().filter_map(|(resource, most)| Some((resource, most?))).collect()
}

/// The pipe that the command reads, which lies in the working directory: the run's own. To wait until somebody writes
/// would be for ever where the caller has died.
fn input() -> io::Result<File> {
    let pipe = open(spec::STDIN, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    fcntl_setfl(&pipe, OFlags::empty())?;
    Ok(pipe.into())
}

fn candidates(plan: &Plan) -> Box<dyn Iterator<Item = String> + '_> {
    let programme = programme(plan);
    if programme.contains('/') {
        return Box::new([programme.to_owned()].into_iter());
    }
    Box::new(path(plan).split(':').map(move |directory| match directory {
        "" => programme.to_owned(),
        directory => format!("{directory}/{programme}"),
    }))
}

fn programme(plan: &Plan) -> &str {
    plan.spec.arguments.first().map_or("", String::as_str)
}

fn path(plan: &Plan) -> &str {
    let own = plan.spec.environment.iter().find(|(name, _)| name == "PATH");
    own.map_or(DEFAULT_PATH, |(_, path)| path)
}

fn last_capability() -> u32 {
    static LAST: OnceLock<u32> = OnceLock::new();
    *LAST.get_or_init(|| {
        // Every kernel knows up to 40 that has what else the sandbox needs.
        let told = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
        told.and_then(|text| text.trim().parse().ok()).unwrap_or(40)
    })
}

/// What the log says of a command that could not be started.
pub fn refusal(plan: &Plan, error: &io::Error) -> String {
    let programme = programme(plan);
    if error.kind() == io::ErrorKind::NotFound && !programme.contains('/') {
        return format!("mortar: cannot run `{programme}`: not found in `{}`\n", path(plan));
    }
    format!("mortar: cannot run `{programme}`: {error}\n")
}

/// Ours are what a command begins with, since they pass on: no signal is ignored or blocked.
pub fn default_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// The child that becomes the command.
struct Child<'a> {
    command: &'a Command,
    logs: [BorrowedFd<'a>; 2],
    told: &'a Told,
}

/// Starts the command, and returns when it has become that, or ended. May be called where `sharing.rs` applies.
pub fn start(
    command: &Command,
    logs: [BorrowedFd<'_>; 2],
    told: &Told,
    stack: &mut Stack,
) -> io::Result<Pid> {
    let child = Child { command, logs, told };
    // SAFETY: we stand still while the child uses what it was given.
    unsafe { sharing::start(&child, stack, libc::CLONE_VFORK) }
}

impl FirstSteps for Child<'_> {
    /// Where it fails, ends as a shell would: with 127 where there is no such programme, else with 126.
    fn run(&self) -> ! {
        let errno = match self.prepare() {
            Ok(()) => self.replace(),
            Err(errno) => errno,
        };
        self.told.refuse(errno);
        sharing::exit(if errno == Errno::NOENT { 127 } else { 126 })
    }
}

impl Child<'_> {
    fn prepare(&self) -> Result<(), Errno> {
        setsid()?;
        offer_to_die();
        match &self.command.input {
            Some(input) => dup2_stdin(input)?,
            None => dup2_stdin(open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?,
        }
        dup2_stdout(self.logs[0])?;
        dup2_stderr(self.logs[1])?;
        for (resource, most) in &self.command.limits {
            limit(*resource, *most)?;
        }
        self.give_up_rights()?;
        set_no_new_privs(true)?;
        chdir(self.command.directory.as_c_str())?;
        self.command.restrict()
    }

    /// No capability, now or after an `exec`, and the command's own identity.
    fn give_up_rights(&self) -> Result<(), Errno> {
        let Some(restrictions) = &self.command.restrictions else { return Ok(()) };
        for capability in 0..=restrictions.last_capability {
            // SAFETY: takes numbers, of capabilities that the kernel knows: so it does not fail, and sets no `errno`.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        if let Some(id) = self.command.identity {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
    }

    /// Only returns where the command could not be started.
    fn replace(&self) -> Errno {
        let mut candidates = self.command.programmes.iter().map(CString::as_c_str);
        let found = match self.command.programmes.len() {
            1 => candidates.next(),
            _ => candidates.find(|path| is_programme(path)),
        };
        let Some(programme) = found else { return Errno::NOENT };
        // What rustix has for this is not public. It is the one call here that sets `errno` when it fails, which the helper,
        // asleep by now, does not miss.
        // SAFETY: both are lists of NUL-terminated strings that end with a null pointer.
        unsafe {
            libc::execve(
                programme.as_ptr(),
                self.command.arguments.pointers.as_ptr(),
                self.command.environment.pointers.as_ptr(),
            );
        }
        Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::ACCESS)
    }
}

/// Has the kernel take this process, and what comes from it, when it runs out of memory, rather than others. It can
/// refuse, but then does not know such a preference.
fn offer_to_die() {
    let file = open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = file {
        rustix::io::write(file, b"500").ok();
    }
}

fn is_programme(path: &CStr) -> bool {
    stat(path).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file())
        && access(path, Access::EXEC_OK).is_ok()
}

fn limit(resource: Resource, most: u64) -> Result<(), Errno> {
    let hard = getrlimit(resource).maximum;
    let most = Some(hard.map_or(most, |hard| most.min(hard)));
    setrlimit(resource, Rlimit { current: most, maximum: most })
}
