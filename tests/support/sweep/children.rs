//! The two kinds of children that the tracer's thread starts itself.
#![expect(clippy::disallowed_methods, reason = "this module starts the programs that are traced")]

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::SweepError;
use super::tracer::error;

/// A child that does nothing but end when its input is closed.
///
/// It lets the tracer wait for its processes and for the test in one system call.
pub(super) struct Bell(Child);

impl Bell {
    pub(super) fn hang() -> Result<Self, SweepError> {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map(Self)
            .map_err(|source| SweepError::Start { program: "cat".to_owned(), source })
    }

    pub(super) fn pid(&self) -> Pid {
        child_pid(&self.0)
    }

    pub(super) fn rope(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A program that stopped itself before its first own call.
pub(super) struct Spawned {
    child: Child,
    output: File,
}

impl Spawned {
    pub(super) fn start(command: &Command) -> Result<Self, SweepError> {
        let program = command.get_program();
        let failed = |source| SweepError::Start { program: program.to_string_lossy().into_owned(), source };
        let output = tempfile::tempfile().map_err(failed)?;
        let mut stopped = Command::new("sh");
        stopped
            .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
            .arg(program)
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output.try_clone().map_err(failed)?);
        if let Some(dir) = command.get_current_dir() {
            stopped.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => stopped.env(name, value),
                None => stopped.env_remove(name),
            };
        }
        let child = stopped.spawn().map_err(failed)?;
        let pid = child_pid(&child);
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).map_err(|source| error("wait for", pid, source))?;
        Ok(Self { child, output })
    }

    pub(super) fn pid(&self) -> Pid {
        child_pid(&self.child)
    }

    pub(super) fn wake(&self) -> Result<(), SweepError> {
        let pid = self.pid();
        kill(pid, Signal::SIGCONT).map_err(|source| error("continue", pid, source))
    }

    pub(super) fn end(mut self) -> (Option<ExitStatus>, String) {
        drop(self.child.kill());
        let status = self.child.wait().ok();
        let mut said = Vec::new();
        let read = self.output.rewind().and_then(|()| self.output.read_to_end(&mut said));
        drop(read);
        (status, String::from_utf8_lossy(&said).into_owned())
    }
}

fn child_pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("Linux process ids fit"))
}
