//! Strikes a running program right before the n-th system call that would change a disk.
//!
//! First count with [`Aim::count`]: the [`Report`] lists every call. Then run the same operation
//! once for each of them with [`Aim::strike`], and judge what is left on the disk.
//!
//! ptrace belongs to one thread, so every [`Trace`] has one of its own. It knows x86-64 only.

mod children;
mod resolve;
mod table;
mod tracer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::run::RunError;
use crate::wait::{TimedOut, wait_until};

/// What happens instead of the chosen call.
#[derive(Clone, Debug)]
pub enum Action {
    /// Every traced process is killed (SIGKILL); the disk lives on.
    Kill,
    /// The file systems mounted here lose their power, then every traced process is killed.
    PowerCut(Vec<PathBuf>),
    /// The call is not made and fails with this error; the program goes on.
    Inject(Errno),
}

/// Which of the counted calls is struck.
#[derive(Clone, Debug)]
pub enum Point {
    /// The call of this number, counted from 1, whichever it is.
    Nth(usize),
    /// The call of this name on this file that has so many of its like before it.
    Like {
        /// The call.
        call: Call,
        /// How many of the same name on the same file come before it.
        before: usize,
    },
}

impl Point {
    /// Describes the call number `nth` of a counted run, counted from 1, so that it is met in the next one as well: the
    /// threads of a program take turns differently each time, what one of them does to one file keeps its order.
    pub fn like(calls: &[Call], nth: usize) -> Self {
        let (earlier, rest) = calls.split_at(nth - 1);
        let before = earlier.iter().filter(|call| **call == rest[0]).count();
        Self::Like { call: rest[0].clone(), before }
    }

    /// Returns whether the last of these calls is the one.
    fn is_last_of(&self, calls: &[Call]) -> bool {
        match self {
            Self::Nth(nth) => *nth == calls.len(),
            Self::Like { call, before } => calls.split_last().is_some_and(|(last, earlier)| {
                last == call && earlier.iter().filter(|other| *other == call).count() == *before
            }),
        }
    }
}

impl From<usize> for Point {
    fn from(nth: usize) -> Self {
        Self::Nth(nth)
    }
}

/// Which calls are counted and which of them is struck.
#[derive(Clone, Debug)]
pub struct Aim {
    dirs: Vec<PathBuf>,
    strike: Option<(Point, Action)>,
}

impl Aim {
    /// Only counts the calls that change something below `dirs`.
    ///
    /// For a program inside a host give the directories as [`crate::hosts::Host::outside`] does.
    pub fn count<P: AsRef<Path>>(dirs: &[P]) -> Self {
        let canonical = |dir: &P| {
            let dir = dir.as_ref();
            dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
        };
        Self { dirs: dirs.iter().map(canonical).collect(), strike: None }
    }

    /// Counts as well, and does `action` in place of the call at `point`.
    pub fn strike<P: AsRef<Path>>(dirs: &[P], point: impl Into<Point>, action: Action) -> Self {
        Self { strike: Some((point.into(), action)), ..Self::count(dirs) }
    }
}

/// One counted call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the system call.
    pub name: &'static str,
    /// The file below one of the directories that it changes.
    pub path: PathBuf,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.path.display())
    }
}

/// What a trace saw.
#[derive(Debug)]
pub struct Report {
    /// The counted calls in their order; the last one is the struck one if that was deadly.
    pub calls: Vec<Call>,
    /// Whether the chosen call came at all. A program with threads may make fewer than it did.
    pub struck: bool,
    /// How a spawned program ended; `None` for one that was attached to.
    pub status: Option<ExitStatus>,
    /// What a spawned program wrote to its standard output and error.
    pub said: String,
}

/// Says why a trace failed; no verdict can be drawn from one that did.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The program could not be started.
    #[error("cannot start {program} under the tracer")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A request to the kernel failed.
    #[error("cannot {attempt} process {pid}")]
    Trace {
        /// What was attempted.
        attempt: &'static str,
        /// The process or thread.
        pid: i32,
        /// Why.
        source: Errno,
    },
    /// A file system refused to lose its power.
    #[error("cannot cut the power")]
    PowerCut(#[source] RunError),
    /// The program did not end in time.
    #[error("the traced program did not end")]
    TimedOut(#[source] TimedOut),
    /// The tracer's thread is gone.
    #[error("the tracer panicked")]
    Lost,
}

/// A program under trace. Dropping it ends the trace as [`Trace::finish`] does.
#[derive(Debug)]
pub struct Trace {
    thread: JoinHandle<Result<Report, SweepError>>,
    /// Closing it rings the bell that the tracer hears beside its processes.
    bell: ChildStdin,
}

/// Whom to trace.
enum Target {
    Spawn(Command),
    Attach(Pid),
}

impl Trace {
    /// Starts `command` under trace, from its first system call on, with all its children.
    ///
    /// Program, arguments, environment and directory of `command` are used; its standard
    /// streams are not, because the report carries what the program says.
    ///
    /// # Errors
    /// When it cannot be started or traced.
    pub fn spawn(command: Command, aim: Aim) -> Result<Self, SweepError> {
        Self::start(Target::Spawn(command), aim)
    }

    /// Attaches to all threads of the running process `pid`.
    ///
    /// Returns when every thread is under trace, so a request sent from now on is counted from
    /// its first call. Children that it starts later are traced, those it has already are not.
    ///
    /// # Errors
    /// When it is not there or may not be traced.
    pub fn attach(pid: i32, aim: Aim) -> Result<Self, SweepError> {
        Self::start(Target::Attach(Pid::from_raw(pid)), aim)
    }

    fn start(target: Target, aim: Aim) -> Result<Self, SweepError> {
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || tracer::run(target, aim, &ready));
        match started.recv() {
            Ok(bell) => Ok(Self { thread, bell }),
            // Without a bell the thread has failed, and says why.
            Err(mpsc::RecvError) => match thread.join() {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) | Err(_) => Err(SweepError::Lost),
            },
        }
    }

    /// Waits until the program has ended by itself or by a deadly strike.
    ///
    /// After a deadly strike all its processes are dead when this returns.
    ///
    /// # Errors
    /// When that takes longer than `limit` (the program is then let go), or the trace failed.
    pub fn wait(self, limit: Duration) -> Result<Report, SweepError> {
        wait_until(limit, "the traced program to end", || self.thread.is_finished()).map_err(SweepError::TimedOut)?;
        self.finish()
    }

    /// Returns whether the trace is over: the program has ended or was struck dead.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the trace. An attached program runs on untraced, a spawned one is killed.
    ///
    /// # Errors
    /// When the trace failed.
    pub fn finish(self) -> Result<Report, SweepError> {
        drop(self.bell);
        self.thread.join().unwrap_or(Err(SweepError::Lost))
    }
}

/// Tries every point of a sweep and reports all failures together, not only the first.
///
/// `trial` gets the number of the call and returns what it found wrong.
///
/// # Errors
/// One line for each point that failed, with the call that was struck there.
pub fn every_point(calls: &[Call], mut trial: impl FnMut(usize) -> Result<(), String>) -> Result<(), String> {
    let failures: Vec<String> = calls
        .iter()
        .zip(1..)
        .filter_map(|(call, nth)| {
            let wrong = trial(nth).err()?;
            Some(format!("before call {nth} ({call}): {wrong}"))
        })
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {} points failed\n{}", failures.len(), calls.len(), failures.join("\n")))
}
