//! The `exec` probe: a program that ends with 0; it and everything that it started is killed by its deadline.
#![expect(clippy::disallowed_methods, reason = "this module starts the programs of probes")]

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use rollback::model::text::sanitize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Seen, no_answer};
use crate::config::{Component, ExecProbe};
use crate::procfs::{self, Process};

/// Bytes of output that are kept of each stream; what comes after is read and forgotten, so that the program goes on.
const OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// Longest time until everybody who was killed is gone; the kernel needs milliseconds.
const END_LIMIT: Duration = Duration::from_millis(500);
/// Pause between two looks at who is left.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest wait for the end of the output after everything was killed: somebody who escaped may hold it open.
const OUTPUT_LIMIT: Duration = Duration::from_millis(200);
/// Where programs that a probe names without their directory are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The variable that the program and its children carry, so that those who leave its group are found.
const MARK: &str = "ROLLBACK_PROBE";

/// A program with all that it started; dropping it kills them, so that neither a deadline nor a cancelled operation
/// leaves anything behind.
struct Family {
    leader: Option<u32>,
    mark: String,
}

impl Family {
    /// Sends SIGKILL to everybody and tells who was there.
    fn kill(&self) -> Vec<Process> {
        if let Some(leader) = self.leader {
            procfs::signal_group(leader, Signal::SIGKILL).ok();
        }
        let strays = procfs::marked(&self.mark);
        for stray in &strays {
            procfs::signal(stray.pid, Signal::SIGKILL).ok();
        }
        strays
    }

    /// Kills until nobody is left: one who forks while being looked for is found the next time.
    async fn end(self) {
        let deadline = Instant::now() + END_LIMIT;
        let mut alive = self.kill();
        while !alive.is_empty() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
            alive.extend(self.kill());
            alive.retain(|process| process.is_alive());
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Passes when the program ends with 0 within the limit. It gets no input and a bare environment.
pub(super) async fn ask(component: &Component, probe: &ExecProbe, limit: Duration) -> Seen {
    let Some((program, arguments)) = probe.command.split_first() else { return Err("no program is named".to_owned()) };
    let mark = uuid::Uuid::now_v7().simple().to_string();
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").env_clear().process_group(0);
    command.env("PATH", PATH).env("LANG", "C.UTF-8").env(MARK, &mark);
    command
        .env("ROLLBACK_COMPONENT", component.name.as_str())
        .env("ROLLBACK_ENVIRONMENT", component.environment.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("cannot run `{program}`: {error}"))?;
    let family = Family { leader: child.id(), mark: format!("{MARK}={mark}") };
    let output = [child.stdout.take().map(keep), child.stderr.take().map(keep)];
    let ended = timeout(limit, child.wait()).await;
    family.end().await;
    let mut said = Vec::new();
    for reader in output.into_iter().flatten() {
        said.extend(kept(reader).await);
    }
    let said = sanitize(&said, OUTPUT_BYTES_MAX);
    let what = match ended {
        Ok(Ok(status)) if status.success() => return Ok(with_output("exit status 0", &said)),
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => format!("cannot wait for `{program}`: {error}"),
        Err(_) => format!("{}, killed", no_answer(limit)),
    };
    Err(with_output(&what, &said))
}

fn with_output(what: &str, said: &str) -> String {
    match said.trim() {
        "" => what.to_owned(),
        said => format!("{what}: {said}"),
    }
}

/// Reads a stream to its end and keeps the beginning.
fn keep(mut stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        let mut chunk = [0; OUTPUT_BYTES_MAX];
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            kept.extend_from_slice(&chunk[..count.min(OUTPUT_BYTES_MAX - kept.len())]);
        }
        kept
    })
}

async fn kept(mut reader: JoinHandle<Vec<u8>>) -> Vec<u8> {
    let read = timeout(OUTPUT_LIMIT, &mut reader).await;
    reader.abort();
    read.ok().and_then(Result::ok).unwrap_or_default()
}
