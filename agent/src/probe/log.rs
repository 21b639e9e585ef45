//! The `log` probe: critical lines that the units' processes wrote to the journal since they were started.
//!
//! `journalctl` reads the journal's files itself, and so works when journald does not. It runs once for each look, from
//! where the last look ended, and is killed by its deadline; the lines that came until then count.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rollback::model::text::sanitize;
use rollback::rules::Reading;
use rollback::rules::lines::Matches;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::memory::{Asked, Memory};
use crate::config::LogProbe;
use crate::ports::Clock;

/// Bytes of the journal that are read at one look; what is left is read at the next one.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Lines that the first look goes back at most.
const LINES_FIRST: &str = "--lines=10000";
/// Bytes of a critical line that are told.
const LINE_BYTES_MAX: usize = 256;
/// What of the time of a look `journalctl` has; the rest is for matching.
const READ_PART: f64 = 0.8;

/// What was found until the last look.
pub(super) struct Found {
    matches: Matches,
    /// Where the journal was read up to.
    cursor: Option<String>,
}

/// Reads the journal, and remembers where it was.
pub(super) struct Journal {
    /// The program that reads it.
    reader: PathBuf,
    clock: Arc<dyn Clock>,
    memory: Memory<Found>,
}

/// One line of the journal.
struct Line {
    at_ms: u64,
    cursor: String,
    text: String,
}

impl Journal {
    pub(super) fn new(reader: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { reader, clock, memory: Memory::default() }
    }

    pub(super) async fn ask(&self, asked: &Asked<'_>, probe: &LogProbe, limit: Duration) -> Reading {
        if asked.invocations.is_empty() {
            return Reading::Unknown("no unit was started".to_owned());
        }
        let fresh = || Found { matches: Matches::new(probe.within_ms, probe.lines_max), cursor: None };
        let from = self.memory.with(asked, fresh, |found| found.cursor.clone());
        let since_ms = self.now_ms().saturating_sub(probe.within_ms);
        let lines = match self.read(&asked.invocations, from.as_deref(), since_ms, limit.mul_f64(READ_PART)).await {
            Ok(lines) => lines,
            Err(why) => return Reading::Unknown(why),
        };
        let now_ms = self.now_ms();
        self.memory.with(asked, fresh, |found| {
            // Somebody else who asked at the same time has counted these lines already.
            if found.cursor == from {
                for line in lines {
                    if probe.patterns.find(&line.text) {
                        let told = sanitize(line.text.trim_end().as_bytes(), LINE_BYTES_MAX).replace('\n', " ");
                        found.matches.note(line.at_ms, told);
                    }
                    found.cursor = Some(line.cursor);
                }
            }
            found.matches.judge(now_ms)
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0)
    }

    async fn read(
        &self,
        invocations: &[String],
        from: Option<&str>,
        since_ms: u64,
        limit: Duration,
    ) -> Result<Vec<Line>, String> {
        #[expect(clippy::disallowed_methods, reason = "the journal has no reader without C libraries but this program")]
        let mut journalctl = tokio::process::Command::new(&self.reader);
        journalctl.args(["--quiet", "--no-pager", "--all", "--output=json", "--output-fields=MESSAGE"]);
        match from {
            Some(cursor) => journalctl.arg(format!("--after-cursor={cursor}")),
            None => journalctl.args([LINES_FIRST.to_owned(), format!("--since=@{}", since_ms / 1_000)]),
        };
        // Of one field any value will do: the lines of all units, each of its start that runs now.
        journalctl.args(invocations.iter().map(|start| format!("_SYSTEMD_INVOCATION_ID={start}")));
        journalctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let cannot = |error: std::io::Error| format!("cannot run `{}`: {error}", self.reader.display());
        let mut child = journalctl.spawn().map_err(cannot)?;
        let Some(stdout) = child.stdout.take() else { return Err("the journal cannot be read".to_owned()) };
        let mut stdout = stdout.take(READ_BYTES_MAX as u64);
        let mut bytes = Vec::new();
        let ended = timeout(limit, async {
            stdout.read_to_end(&mut bytes).await?;
            // One that has more to say than is read ends by the closed pipe, and that is no failure of it.
            let is_cut = stdout.limit() == 0;
            drop(stdout);
            Ok((child.wait().await?, is_cut))
        });
        match ended.await {
            Ok(Ok((status, is_cut))) if !status.success() && !is_cut => Err(format!("`journalctl`: {status}")),
            Ok(Ok(_)) => Ok(lines(&bytes)),
            Ok(Err(error)) => Err(cannot(error)),
            Err(_) if bytes.is_empty() => Err(format!("the journal was not read within {} ms", limit.as_millis())),
            Err(_) => Ok(lines(&bytes)),
        }
    }
}

/// Takes the whole lines of what was read; one that is not as `journalctl` writes them is passed over.
fn lines(bytes: &[u8]) -> Vec<Line> {
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.filter_map(|line| Line::parse(&serde_json::from_slice(line).ok()?)).collect()
}

impl Line {
    fn parse(entry: &Value) -> Option<Self> {
        let micros: u64 = entry["__REALTIME_TIMESTAMP"].as_str()?.parse().ok()?;
        let cursor = entry["__CURSOR"].as_str()?.to_owned();
        Some(Self { at_ms: micros / 1_000, cursor, text: text(&entry["MESSAGE"]) })
    }
}

/// Reads a field: a text, bytes when it is not UTF-8, or several of these.
fn text(field: &Value) -> String {
    match field {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = items.iter().filter_map(|item| u8::try_from(item.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}
