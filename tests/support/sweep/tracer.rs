//! The ptrace loop: one thread that stops a process tree at each of its system calls.
#![expect(clippy::disallowed_methods, reason = "which threads a process has is read from /proc")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::process::ChildStdin;
use std::sync::mpsc::Sender;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::children::{Bell, Spawned};
use super::resolve::{Arguments, file_below};
use super::table::mutating;
use super::{Action, Aim, Call, Report, SweepError, Target};
use crate::images::cut_power;
use crate::wait::wait_until;

/// How long killed or detaching processes may take; they need microseconds.
const LET_GO_LIMIT: Duration = Duration::from_secs(10);

/// Children and threads of the traced are traced too, and none outlives the tracer's thread.
const OPTIONS: Options = Options::PTRACE_O_TRACESYSGOOD
    .union(Options::PTRACE_O_TRACECLONE)
    .union(Options::PTRACE_O_TRACEFORK)
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_TRACEEXEC)
    .union(Options::PTRACE_O_EXITKILL);

/// What the loop does next.
#[derive(PartialEq, Eq)]
enum Next {
    Trace,
    Stop,
}

/// Traces `target` to its end, to a deadly strike, or until the bell's other end is closed.
///
/// Sends that other end as soon as every thread of the target is under trace.
pub(super) fn run(target: Target, aim: Aim, ready: &Sender<ChildStdin>) -> Result<Report, SweepError> {
    let mut bell = Bell::hang()?;
    let mut spawned = None;
    let root = match target {
        Target::Attach(pid) => pid,
        Target::Spawn(command) => spawned.insert(Spawned::start(&command)?).pid(),
    };
    let mut tracer = Tracer {
        root,
        bell: bell.pid(),
        aim,
        tracees: HashSet::new(),
        starting: HashSet::new(),
        injecting: HashMap::new(),
        calls: Vec::new(),
        struck: false,
    };
    let traced = tracer.seize().and_then(|()| spawned.as_ref().map_or(Ok(()), Spawned::wake)).and_then(|()| {
        tracer.trace(|| {
            if let Some(rope) = bell.rope() {
                // If nobody waits for the trace any more, the rope falls and the bell rings.
                drop(ready.send(rope));
            }
        })
    });
    let (status, said) = match spawned {
        Some(spawned) => spawned.end(),
        None => (None, String::new()),
    };
    traced?;
    Ok(Report { calls: tracer.calls, struck: tracer.struck, status, said })
}

struct Tracer {
    root: Pid,
    bell: Pid,
    aim: Aim,
    tracees: HashSet<Pid>,
    /// Threads that were there from the start and have not stopped yet.
    starting: HashSet<Pid>,
    /// Threads inside a call that was taken away from them, and what it shall return.
    injecting: HashMap<Pid, Errno>,
    calls: Vec<Call>,
    struck: bool,
}

impl Tracer {
    fn trace(&mut self, on_ready: impl FnOnce()) -> Result<(), SweepError> {
        let mut on_ready = Some(on_ready);
        loop {
            if self.starting.is_empty()
                && let Some(on_ready) = on_ready.take()
            {
                on_ready();
            }
            // The end of the root belongs to its real parent, so look before taking.
            let peeked = waitid(Id::All, wait_flags() | WaitPidFlag::WNOWAIT)
                .map_err(|source| error("wait for", self.root, source))?;
            let Some(pid) = peeked.pid() else { continue };
            let ended = matches!(peeked, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
            if ended && pid == self.root {
                self.tracees.remove(&pid);
                return self.let_go();
            }
            if ended && pid == self.bell {
                return self.let_go();
            }
            let status = waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(|source| error("wait for", pid, source))?;
            if self.handle(status)? == Next::Stop {
                return Ok(());
            }
        }
    }

    /// Seizes all threads of the root; more may come while this looks, so it looks again.
    fn seize(&mut self) -> Result<(), SweepError> {
        loop {
            let mut found_more = false;
            for tid in threads(self.root) {
                if self.tracees.contains(&tid) {
                    continue;
                }
                match ptrace::seize(tid, OPTIONS) {
                    Ok(()) => ptrace::interrupt(tid)
                        .or_else(forgive_dead)
                        .map_err(|source| error("interrupt", tid, source))?,
                    Err(Errno::ESRCH) => continue,
                    // Born of a thread that is traced already, and so traced from birth.
                    Err(Errno::EPERM) if !self.tracees.is_empty() => {}
                    Err(source) => return Err(error("seize", tid, source)),
                }
                self.tracees.insert(tid);
                self.starting.insert(tid);
                found_more = true;
            }
            if !found_more {
                break;
            }
        }
        if self.tracees.is_empty() {
            return Err(error("seize", self.root, Errno::ESRCH));
        }
        Ok(())
    }

    fn handle(&mut self, status: WaitStatus) -> Result<Next, SweepError> {
        let Some(tid) = status.pid() else {
            return Ok(Next::Trace);
        };
        self.starting.remove(&tid);
        match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                self.tracees.remove(&tid);
                return Ok(Next::Trace);
            }
            WaitStatus::PtraceSyscall(_) => {
                if self.at_syscall(tid)? == Next::Stop {
                    return Ok(Next::Stop);
                }
                resume(tid, None)?;
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                self.note_birth(tid, event);
                resume(tid, None)?;
            }
            WaitStatus::Stopped(_, signal) => resume(tid, Some(signal))?,
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
        Ok(Next::Trace)
    }

    /// Remembers a new thread or process, and forgets the thread that became another by `exec`.
    fn note_birth(&mut self, tid: Pid, event: i32) {
        let Some(other) = ptrace::getevent(tid).ok().and_then(|n| i32::try_from(n).ok()) else {
            return;
        };
        let other = Pid::from_raw(other);
        match event {
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                self.tracees.insert(other);
            }
            libc::PTRACE_EVENT_EXEC if other != tid => {
                self.tracees.remove(&other);
                self.tracees.insert(tid);
            }
            _ => {
                self.tracees.insert(tid);
            }
        }
    }

    fn at_syscall(&mut self, tid: Pid) -> Result<Next, SweepError> {
        let info = match ptrace::syscall_info(tid) {
            Ok(info) => info,
            Err(Errno::ESRCH) => return Ok(Next::Trace),
            Err(source) => return Err(error("ask", tid, source)),
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            return self.at_exit(tid);
        }
        let Ok(registers) = ptrace::getregs(tid) else {
            return Ok(Next::Trace);
        };
        let Some(row) = mutating(registers.orig_rax) else {
            return Ok(Next::Trace);
        };
        let arguments: Arguments =
            [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let Some(path) = file_below(&self.aim.dirs, tid, row, &arguments) else {
            return Ok(Next::Trace);
        };
        self.calls.push(Call { name: row.name, path });
        match self.aim.strike.clone() {
            Some((point, action)) if !self.struck && point.is_last_of(&self.calls) => self.strike(tid, action),
            Some(_) | None => Ok(Next::Trace),
        }
    }

    fn strike(&mut self, tid: Pid, action: Action) -> Result<Next, SweepError> {
        self.struck = true;
        match action {
            Action::Kill => {}
            Action::PowerCut(mount_points) => {
                for mount_point in &mount_points {
                    cut_power(mount_point).map_err(SweepError::PowerCut)?;
                }
            }
            Action::Inject(errno) => {
                // No call has this number, so the kernel makes none.
                let mut registers = ptrace::getregs(tid).map_err(|source| error("read", tid, source))?;
                registers.orig_rax = u64::MAX;
                ptrace::setregs(tid, registers).map_err(|source| error("change", tid, source))?;
                self.injecting.insert(tid, errno);
                return Ok(Next::Trace);
            }
        }
        self.kill_all()?;
        Ok(Next::Stop)
    }

    fn at_exit(&mut self, tid: Pid) -> Result<Next, SweepError> {
        if let Some(errno) = self.injecting.remove(&tid) {
            let mut registers = ptrace::getregs(tid).map_err(|source| error("read", tid, source))?;
            registers.rax = (-i64::from(errno as i32)) as u64;
            ptrace::setregs(tid, registers).map_err(|source| error("change", tid, source))?;
        }
        Ok(Next::Trace)
    }

    /// Kills every traced process and waits until none of them holds a file any more.
    fn kill_all(&self) -> Result<(), SweepError> {
        for tid in &self.tracees {
            // To kill one thread is to kill its process.
            kill(*tid, Signal::SIGKILL).or_else(forgive_dead).map_err(|source| error("kill", *tid, source))?;
        }
        wait_until(LET_GO_LIMIT, "the killed processes to be gone", || self.tracees.iter().all(|tid| is_dead(*tid)))
            .map_err(SweepError::TimedOut)
    }

    /// Detaches from whatever still runs.
    ///
    /// A thread can only be let go while it is stopped, and one that waits for its `vfork`
    /// child stops only after the child has gone on; so this goes round until all are free.
    fn let_go(&mut self) -> Result<(), SweepError> {
        for tid in &self.tracees {
            ptrace::interrupt(*tid).or_else(forgive_dead).map_err(|source| error("interrupt", *tid, source))?;
        }
        let root = self.root;
        wait_until(LET_GO_LIMIT, "the traced threads to be let go", || {
            for tid in self.tracees.clone() {
                if tid == root && is_dead(root) {
                    self.tracees.remove(&root);
                    continue;
                }
                let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
                let signal = match waitpid(tid, Some(flags)) {
                    Ok(WaitStatus::StillAlive) => continue,
                    Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
                    Ok(WaitStatus::PtraceEvent(_, _, event)) => {
                        self.note_birth(tid, event);
                        None
                    }
                    Ok(WaitStatus::PtraceSyscall(_)) => {
                        self.settle(tid);
                        None
                    }
                    Ok(_) | Err(_) => None,
                };
                // Fails only for one that is dead.
                let _ = ptrace::detach(tid, signal);
                self.tracees.remove(&tid);
            }
            self.tracees.is_empty()
        })
        .map_err(SweepError::TimedOut)
    }

    /// Gives a call that was taken away its result before its thread is let go.
    fn settle(&mut self, tid: Pid) {
        if self.injecting.contains_key(&tid) {
            drop(self.at_exit(tid));
        }
    }
}

fn wait_flags() -> WaitPidFlag {
    // Without `__WNOTHREAD` this would steal the children of the test's other threads.
    WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD
}

fn resume(tid: Pid, signal: Option<Signal>) -> Result<(), SweepError> {
    ptrace::syscall(tid, signal).or_else(forgive_dead).map_err(|source| error("resume", tid, source))
}

fn forgive_dead(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::ESRCH { Ok(()) } else { Err(errno) }
}

pub(super) fn error(attempt: &'static str, pid: Pid, source: Errno) -> SweepError {
    SweepError::Trace { attempt, pid: pid.as_raw(), source }
}

fn threads(pid: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

/// Returns whether the thread is gone or a zombie, which holds no file.
fn is_dead(tid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{tid}/stat")) else {
        return true;
    };
    // The name before the state may hold anything, also a parenthesis.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}
