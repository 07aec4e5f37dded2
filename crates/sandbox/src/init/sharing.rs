//! Children that share this process's memory: nothing is copied for them, neither when they are made nor when either
//! side writes, which is most of what a fork costs.
//!
//! In turn they must leave alone what this process uses meanwhile: the heap, and whatever else a library keeps, such as
//! `errno`. So all that they need is made ready before, and they make system calls by `rustix`, which keeps nothing.

use super::check;
use nix::unistd::Pid;
use rustix::{io::Errno, thread::futex};
use std::{
    io,
    mem::MaybeUninit,
    sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst},
};

/// What a child runs on. It calls few functions, and none deeply.
#[derive(Debug)]
pub struct Stack(Box<[MaybeUninit<u128>]>);

impl Default for Stack {
    fn default() -> Self {
        // Aligned for every architecture by its type. To clear it would take longer than all that runs on it.
        Self(Box::new_uninit_slice(8192))
    }
}

/// What runs in a child.
pub trait FirstSteps {
    /// Must neither allocate nor panic nor ask the C library, and ends the child or makes it another programme.
    fn run(&self) -> !;
}

/// Starts a child that shares our memory. With `CLONE_VFORK` among the flags, this process stands still until the child
/// has ended or become another programme.
///
/// # Safety
/// `steps` and `stack` must stay as they are, and unused by others, until the child has ended.
pub unsafe fn start<T: FirstSteps>(steps: &T, stack: &mut Stack, flags: libc::c_int) -> io::Result<Pid> {
    extern "C" fn enter<T: FirstSteps>(steps: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `start` gives us this pointer, and its caller keeps what it points to.
        unsafe { &*steps.cast::<T>() }.run()
    }
    // SAFETY: the stack grows down from its end on every architecture that Rust knows. The child runs `steps` alone, which
    // is kept to what may be done in shared memory by its contract, and the rest by ours.
    let pid = check(unsafe {
        libc::clone(
            enter::<T>,
            stack.0.as_mut_ptr_range().end.cast(),
            flags | libc::CLONE_VM | libc::SIGCHLD,
            std::ptr::from_ref(steps).cast_mut().cast(),
        )
        .into()
    })?;
    Ok(Pid::from_raw(pid as i32))
}

/// Ends a child.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends this process at once, without running what the helper registered for its own end.
    unsafe { libc::_exit(code) }
}

/// What such children tell, and wait for.
#[derive(Debug, Default)]
pub struct Told {
    go: AtomicU32,
    failed: AtomicU32,
    errno: AtomicI32,
    status: AtomicI32,
    ended: AtomicU32,
    full: AtomicU32,
    not_started: AtomicI32,
}

const GO: u32 = 1;

impl Told {
    /// Lets the child go on.
    pub fn go(&self) {
        self.go.store(GO, SeqCst);
        // It fails for nobody; a child that does not wait yet will not begin to.
        futex::wake(&self.go, futex::Flags::PRIVATE, 1).ok();
    }

    /// In the child: waits until it may.
    pub fn wait_to_go(&self) {
        while self.go.load(SeqCst) != GO {
            // It returns early where the word has changed already, or a signal came.
            futex::wait(&self.go, futex::Flags::PRIVATE, 0, None).ok();
        }
    }

    /// In the child: this step failed. Steps are counted from 1.
    pub fn fail(&self, step: u32, errno: Errno) {
        self.errno.store(errno.raw_os_error(), SeqCst);
        self.failed.store(step, SeqCst);
    }

    /// The step that failed, and why.
    pub fn failure(&self) -> Option<(u32, i32)> {
        let step = self.failed.load(SeqCst);
        (step != 0).then(|| (step, self.errno.load(SeqCst)))
    }

    /// In the child: the command ended with this status, and may have filled `/tmp`.
    pub fn end(&self, status: i32, full: bool) {
        self.full.store(full.into(), SeqCst);
        self.status.store(status, SeqCst);
        self.ended.store(1, SeqCst);
    }

    /// The status that the command ended with.
    pub fn status(&self) -> Option<i32> {
        (self.ended.load(SeqCst) != 0).then(|| self.status.load(SeqCst))
    }

    /// Whether `/tmp` or its like was full when the command ended.
    pub fn is_full(&self) -> bool {
        self.full.load(SeqCst) != 0
    }

    /// In the child that was to become the command: it could not.
    pub fn refuse(&self, errno: Errno) {
        self.not_started.store(errno.raw_os_error(), SeqCst);
    }

    /// Why the command was not started, if it was not.
    pub fn refusal(&self) -> Option<io::Error> {
        let errno = self.not_started.load(SeqCst);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }
}
