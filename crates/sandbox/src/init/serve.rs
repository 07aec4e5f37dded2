//! The helper's loop: takes a request from its socket, answers it, and waits for the next, until the other end of the
//! socket is gone.

use super::{
    Failure, Message, Plan, Reply, Request, Step, bare, check, message, namespaces, outside::Outside,
    process, seccomp, supervise,
};
use crate::{Exit, Isolation, Layer, Layers, spec};
use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    process::exit,
};

/// Does what the other end of standard input asks, answers there, and ends the process when that is gone.
pub fn main() -> ! {
    let code = match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("mortar-sandbox-init: {error}");
            1
        }
    };
    exit(code)
}

fn serve() -> io::Result<()> {
    // SAFETY: nothing of this process has opened a descriptor beyond the standard ones yet.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) })?;
    nix::sys::prctl::set_name(c"mortar-sandbox")?;
    // The kernel runs out of memory for the command's sake, so that is what it should take, and not us, where we may
    // say so.
    fs::write("/proc/self/oom_score_adj", "-1000").ok();
    // This passes on to commands.
    process::default_signals()?;
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mut helper = Helper { control, outside: None };
    // Where the asker is gone there is nothing to do, and nobody who would want to know.
    while let Ok(Message { run, request }) = message::receive::<Message<Request>>(&helper.control) {
        // What comes without a request stops a run that was over by itself.
        let Some(request) = request else { continue };
        let reply = helper.answer(run, &request);
        let again = matches!(reply, Reply::Exit { reusable: true, .. });
        if message::send(&helper.control, &reply).is_err() || !again {
            break;
        }
        helper.tidy().map_err(io::Error::from)?;
    }
    Ok(())
}

struct Helper {
    control: UnixStream,
    outside: Option<Outside>,
}

impl Helper {
    fn answer(&mut self, run: u64, request: &Request) -> Reply {
        match request {
            Request::Run(plan) => match self.run(run, plan, false) {
                Ok(exit) => Reply::Exit { exit, reusable: plan.isolation == Isolation::Namespaces },
                Err(failure) => Reply::Failed(failure),
            },
            Request::Probe(plan) => Reply::Permitted(self.probe(run, plan)),
        }
    }

    /// Runs the command, or all but it if this is a rehearsal.
    fn run(&mut self, run: u64, plan: &Plan, rehearsal: bool) -> Result<Exit, Failure> {
        let control = supervise::Control { socket: &self.control, run };
        if plan.isolation == Isolation::None {
            prepare(plan)?;
            return bare::run(plan, &control);
        }
        let outside = match &mut self.outside {
            Some(outside) => outside,
            none => none.insert(Outside::enter(plan)?),
        };
        prepare(plan)?;
        supervise::isolated(plan, outside, &control, rehearsal)
    }

    /// Leaves nothing of the last run for the next one.
    fn tidy(&mut self) -> Result<(), Failure> {
        std::env::set_current_dir("/").step(|| "leave the run's directory".into())?;
        self.outside.as_mut().map_or(Ok(()), Outside::renew)
    }

    /// Rehearses a run; where that fails, tries layer by layer to tell what is refused.
    fn probe(&mut self, run: u64, plan: &Plan) -> Layers {
        let Err(failure) = self.run(run, plan, true) else { return Layers::default() };
        if failure.step == seccomp::STEP {
            return Layers { refused: vec![(Layer::SystemCalls, io::Error::from(failure).to_string())] };
        }
        let mut refused: Vec<_> = namespaces::EACH
            .iter()
            .filter_map(|(layer, flags)| Some((*layer, namespaces::try_one(*flags).err()?.to_string())))
            .collect();
        if refused.is_empty() {
            refused.push((Layer::Root, io::Error::from(failure).to_string()));
        }
        Layers { refused }
    }
}

/// Enters the run's own directory, and makes its logs.
fn prepare(plan: &Plan) -> Result<(), Failure> {
    let directory = &plan.spec.directory;
    std::env::set_current_dir(directory).step(|| format!("enter `{}`", directory.display()))?;
    let logs = if plan.spec.converses { &[spec::STDERR][..] } else { &[spec::STDOUT, spec::STDERR] };
    for name in logs {
        let file = File::create(name).step(|| format!("create the file `{name}`"))?;
        if let Some((uid, gid)) = plan.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).step(|| format!("chown `{name}`"))?;
        }
    }
    Ok(())
}
