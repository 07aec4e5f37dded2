//! Which system calls a command may make: all but those that serve to leave a sandbox, to reconfigure the machine, or
//! to reach parts of the kernel that programs of builds have no use for and attackers have.
//!
//! It takes effect in two parts, since to install a filter costs by its length: what the helper has no use for either is
//! refused to the helper itself, once, and passes on to all that it starts; the little that it needs to set a run up is
//! refused to each command. A call is refused if either part does so.
//!
//! The kernel runs a filter once for every call there is when it is installed, so it is a search tree: in a list, that
//! alone would take longer than starting a process. `ptrace` is permitted: it reaches only processes of the same run, and
//! sanitizers need it.

use libc::{c_long, sock_filter};
use std::{io, mem::offset_of};

/// The name of the step that installs it.
pub const STEP: &str = "install the filter of system calls";

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Refused with `EPERM`, to the helper too.
const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Refused with `EPERM` to commands: the helper sets runs up by these.
const REFUSED_TO_COMMANDS: &[c_long] = &[
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_umount2,
];

const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;
/// `unshare` takes it; for `clone` these bits are the number of a signal.
const NEW_TIME: u32 = 0x80;

/// Families of sockets that stay in the run's own network; others, such as those to a hypervisor, know no namespaces.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const ALLOW: sock_filter = give(libc::SECCOMP_RET_ALLOW);

/// The filter, ready to be installed.
#[derive(Debug)]
pub struct Filter(Vec<sock_filter>);

/// What is done about a call, by its number.
type Rule = (u32, Vec<sock_filter>);

impl Filter {
    /// The part for the helper and all that comes of it.
    pub fn standing() -> Self {
        let mut rules = refusals(REFUSED);
        rules.push((libc::SYS_socket as u32, families()));
        rules.push((libc::SYS_ioctl as u32, without_value(1, libc::TIOCSTI as u32)));
        // Programs of other architectures would number their calls otherwise.
        let mut filter = vec![
            load(offset_of!(libc::seccomp_data, arch)),
            jump(EQUAL, ARCHITECTURE, 1, 0),
            refuse(libc::ENOSYS),
        ];
        filter.push(load(offset_of!(libc::seccomp_data, nr)));
        // Those of x32, which are x86-64's with this bit.
        filter.extend([jump(AT_LEAST, 0x4000_0000, 0, 1), refuse(libc::ENOSYS)]);
        filter.extend(search(rules));
        Self(filter)
    }

    /// The part for commands, where the other is in force: calls of other architectures do not get past that one.
    pub fn last() -> Self {
        let mut rules = refusals(REFUSED_TO_COMMANDS);
        // Its flags lie in memory, where a filter cannot look; libraries use `clone` then.
        rules.push((libc::SYS_clone3 as u32, vec![refuse(libc::ENOSYS)]));
        rules.push((libc::SYS_clone as u32, without_bits(NAMESPACES)));
        rules.push((libc::SYS_unshare as u32, without_bits(NAMESPACES | NEW_TIME)));
        let mut filter = vec![load(offset_of!(libc::seccomp_data, nr))];
        filter.extend(search(rules));
        Self(filter)
    }

    /// Installs it for this process and its children, for good. The process can gain no privileges by now, or has all there
    /// are in its user namespace. Neither allocates
    /// nor, unless it fails, leaves a trace in memory.
    pub fn install(&self) -> io::Result<()> {
        const SET_FILTER: libc::c_uint = 1;
        /// What older kernels would add slows every command down, and protects from what is not in one process here.
        const SPECULATE: libc::c_ulong = 4;
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the program points to as many instructions as it says; both outlive the call, which only reads them.
        super::check(unsafe { libc::syscall(libc::SYS_seccomp, SET_FILTER, SPECULATE, &program) })?;
        Ok(())
    }
}

fn refusals(calls: &[c_long]) -> Vec<Rule> {
    calls.iter().map(|call| (*call as u32, vec![refuse(libc::EPERM)])).collect()
}

fn search(mut rules: Vec<Rule>) -> Vec<sock_filter> {
    rules.sort_by_key(|(call, _)| *call);
    tree(&rules)
}

/// Finds the rule of a call among these, by halves.
fn tree(rules: &[Rule]) -> Vec<sock_filter> {
    match rules {
        [] => vec![ALLOW],
        [(call, rule)] => {
            let mut code = vec![jump(EQUAL, *call, 0, short(rule.len()))];
            code.extend(rule);
            code.push(ALLOW);
            code
        }
        _ => {
            let (lower, upper) = rules.split_at(rules.len() / 2);
            let below = tree(lower);
            let mut code = vec![jump(AT_LEAST, upper[0].0, short(below.len()), 0)];
            code.extend(below);
            code.extend(tree(upper));
            code
        }
    }
}

/// A rule's length, which fits by far for as many rules as there are.
fn short(length: usize) -> u8 {
    u8::try_from(length).expect("the tree has fewer than 256 instructions on one side")
}

fn without_bits(bits: u32) -> Vec<sock_filter> {
    vec![load(argument(0)), jump(ANY_BIT, bits, 0, 1), refuse(libc::EPERM), ALLOW]
}

fn without_value(which: usize, value: u32) -> Vec<sock_filter> {
    vec![load(argument(which)), jump(EQUAL, value, 0, 1), refuse(libc::EPERM), ALLOW]
}

fn families() -> Vec<sock_filter> {
    let mut code = vec![load(argument(0))];
    for family in FAMILIES {
        code.extend([jump(EQUAL, family as u32, 0, 1), ALLOW]);
    }
    code.push(refuse(libc::EAFNOSUPPORT));
    code
}

/// The lower half of an argument, on the little-endian architectures that there are here.
fn argument(which: usize) -> usize {
    offset_of!(libc::seccomp_data, args) + which * 8
}

fn load(offset: usize) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset as u32 }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn give(action: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: action }
}

const fn refuse(errno: libc::c_int) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | errno as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both parts answer to a call: the kernel takes the stricter one, and refusals have the smaller numbers.
    fn answer(nr: u32, arch: u32, arguments: [u32; 2]) -> u32 {
        [Filter::standing(), Filter::last()]
            .map(|filter| run(&filter, nr, arch, arguments))
            .into_iter()
            .min()
            .unwrap()
    }

    /// What a filter answers, as the kernel would run it.
    fn run(filter: &Filter, nr: u32, arch: u32, arguments: [u32; 2]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let code = filter.0[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { code.jt } else { code.jf });
            match code.code {
                LOAD => {
                    value = match code.k {
                        0 => nr,
                        4 => arch,
                        16 => arguments[0],
                        24 => arguments[1],
                        other => panic!("no field at {other}"),
                    }
                }
                EQUAL => at += jump(value == code.k),
                AT_LEAST => at += jump(value >= code.k),
                ANY_BIT => at += jump(value & code.k != 0),
                RETURN => return code.k,
                other => panic!("no instruction {other}"),
            }
        }
    }

    #[test]
    fn each_call_gets_its_own_answer() {
        let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let special =
            [libc::SYS_clone, libc::SYS_clone3, libc::SYS_unshare, libc::SYS_socket, libc::SYS_ioctl];
        for call in 0..600 {
            let refused = REFUSED.contains(&call) || REFUSED_TO_COMMANDS.contains(&call);
            let expected = if refused { eperm } else { libc::SECCOMP_RET_ALLOW };
            if !special.contains(&call) {
                assert_eq!(answer(call as u32, ARCHITECTURE, [0, 0]), expected, "{call}");
            }
        }
    }

    #[test]
    fn the_helper_may_set_runs_up_and_nothing_else() {
        let standing = Filter::standing();
        for call in REFUSED_TO_COMMANDS.iter().chain(&[libc::SYS_clone, libc::SYS_clone3, libc::SYS_unshare])
        {
            let flags = [NAMESPACES | NEW_TIME, 0];
            assert_eq!(run(&standing, *call as u32, ARCHITECTURE, flags), libc::SECCOMP_RET_ALLOW, "{call}");
        }
    }

    #[test]
    fn arguments_and_architectures_count() {
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
        let allow = libc::SECCOMP_RET_ALLOW;
        let native = |call: c_long, first: i32, second: u64| {
            answer(call as u32, ARCHITECTURE, [first as u32, second as u32])
        };
        assert_eq!(native(libc::SYS_clone, libc::SIGCHLD | libc::CLONE_VM, 0), allow);
        assert_eq!(native(libc::SYS_clone, libc::SIGCHLD | libc::CLONE_NEWUSER, 0), errno(libc::EPERM));
        assert_eq!(native(libc::SYS_clone3, 0, 0), errno(libc::ENOSYS));
        assert_eq!(native(libc::SYS_unshare, libc::CLONE_FILES, 0), allow);
        assert_eq!(native(libc::SYS_unshare, libc::CLONE_NEWNET, 0), errno(libc::EPERM));
        assert_eq!(native(libc::SYS_socket, libc::AF_INET6, 0), allow);
        assert_eq!(native(libc::SYS_socket, libc::AF_VSOCK, 0), errno(libc::EAFNOSUPPORT));
        assert_eq!(native(libc::SYS_ioctl, 0, libc::TCGETS), allow);
        assert_eq!(native(libc::SYS_ioctl, 0, libc::TIOCSTI), errno(libc::EPERM));
        assert_eq!(answer(1, 0x4000_0003, [0, 0]), errno(libc::ENOSYS));
        assert_eq!(answer(0x4000_0001, ARCHITECTURE, [0, 0]), errno(libc::ENOSYS));
    }
}
