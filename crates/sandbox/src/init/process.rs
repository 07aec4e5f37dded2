//! The last steps before the command: its identity, rights, limits and descriptors; then `exec`.

use super::{Plan, check, namespaces};
use crate::Isolation;
use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{Pid, execve, setsid},
};
use std::{
    ffi::CString,
    fs::File,
    io::{self, Write},
    mem::size_of,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Descriptors that a command may open, unless the host allows fewer.
const OPEN_FILES: u64 = 65_536;

/// The command's first steps run on this much of a stack, of which they need a fraction.
const STACK: usize = 256 << 10;

/// Starts the command: a child that shares our memory until it has become the command, so that nothing is copied for
/// it, and for so long we stand still.
pub fn start(plan: &Plan, exec: &Path, stdout: &File, stderr: &File) -> io::Result<Pid> {
    let mut first_steps = || -> i32 { become_command(plan, exec, stdout, stderr) };
    let mut first_steps: &mut dyn FnMut() -> i32 = &mut first_steps;
    extern "C" fn enter(first_steps: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `start` gives us this pointer, and stands still while we use it.
        let first_steps = unsafe { &mut *first_steps.cast::<&mut dyn FnMut() -> i32>() };
        first_steps()
    }
    // Aligned for every architecture by its type, and its size a multiple of that.
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    // SAFETY: the stack grows down from its end on every architecture that Rust knows. This process has one thread, which
    // stands still until the child ended or called `exec`; the child allocates and frees as this thread would, and leaves
    // by `_exit` or `exec` alone. Descriptors, signals, limits and identity are its own, since they are not shared.
    let pid = check(unsafe {
        libc::clone(
            enter,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut first_steps).cast(),
        )
        .into()
    })?;
    Ok(Pid::from_raw(pid as i32))
}

/// Becomes the command. Where that fails, says so on its standard error and ends as a shell would: with 127 where
/// there is no such program, else with 126.
fn become_command(plan: &Plan, exec: &Path, stdout: &File, stderr: &File) -> ! {
    let program = plan.spec.arguments.first().map_or("", String::as_str);
    let error = match prepare(plan, exec, stdout, stderr) {
        Ok(()) => replace(plan),
        Err(error) => error,
    };
    let mut log = stderr;
    writeln!(log, "mortar: cannot run `{program}`: {error}").ok();
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    // SAFETY: ends this child at once, without running what its parent registered for its own end.
    unsafe { libc::_exit(code) }
}

fn prepare(plan: &Plan, exec: &Path, stdout: &File, stderr: &File) -> io::Result<()> {
    setsid()?;
    let null = File::open("/dev/null")?;
    for (file, number) in [(&null, 0), (stdout, 1), (stderr, 2)] {
        // SAFETY: both are descriptors of this process; the standard ones belong to nobody in it.
        check(unsafe { libc::dup2(file.as_raw_fd(), number) }.into())?;
    }
    default_signals()?;
    umask(Mode::from_bits_truncate(0o022));
    limit(Resource::RLIMIT_CORE, 0)?;
    limit(Resource::RLIMIT_NOFILE, OPEN_FILES)?;
    if plan.isolation == Isolation::Namespaces {
        give_up_rights(plan)?;
    }
    prctl::set_no_new_privs()?;
    std::env::set_current_dir(exec.join(&plan.spec.working_directory))
}

fn default_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    Ok(setrlimit(resource, most.min(hard), most.min(hard))?)
}

/// No capability, now or after an `exec`, and the command's own identity.
fn give_up_rights(plan: &Plan) -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: takes numbers. The kernel knows fewer capabilities than we ask for, and refuses the others.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
            break;
        }
    }
    if plan.owner.is_some() {
        // SAFETY: no groups, so no list is read.
        check(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
        set_identity(namespaces::INSIDE)?;
    }
    drop_capabilities()
}

/// Uid and gid alike, for good.
pub fn set_identity(id: u32) -> io::Result<()> {
    // SAFETY: takes numbers, and this process has one thread, so it is changed as a whole.
    unsafe {
        check(libc::setresgid(id, id, id).into())?;
        check(libc::setresuid(id, id, id).into())?;
    }
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 reads a header of two words and two sets of three, which these are.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
    Ok(())
}

/// Only returns where the command could not be started.
fn replace(plan: &Plan) -> io::Error {
    let attempt = || -> io::Result<std::convert::Infallible> {
        let program = find(plan)?;
        let program = CString::new(program.as_os_str().as_bytes())?;
        let arguments = plan.spec.arguments.iter().map(|argument| CString::new(argument.as_str()));
        let environment =
            plan.spec.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        Ok(execve(&program, &arguments, &environment.collect::<Result<Vec<_>, _>>()?)?)
    };
    match attempt() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn find(plan: &Plan) -> io::Result<PathBuf> {
    let program = plan.spec.arguments.first().map_or("", String::as_str);
    if program.contains('/') {
        return Ok(program.into());
    }
    let own = plan.spec.environment.iter().find(|(name, _)| name == "PATH");
    let path = own.map_or(DEFAULT_PATH, |(_, path)| path);
    let candidates = path.split(':').map(|directory| Path::new(directory).join(program));
    let found = candidates
        .filter(|path| path.is_file())
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("not found in `{path}`")))
}
