//! The agent's own log: journald when systemd has started it, stderr otherwise. The audit goes another way.
//!
//! The layer for journald waits while that hangs, so it has a thread of its own: who logs never waits, and lines that find
//! no place are lost.

use std::env;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines that wait for journald: minutes of a busy agent, below a megabyte.
const LINES_WAITING_MAX: usize = 1_024;
/// Longest wait at the end for what was said last, such as why the agent does not start.
const LAST_LINES_LIMIT: Duration = Duration::from_secs(1);

/// What the thread is told.
enum Told {
    /// A line of the log.
    Line(Level, String),
    /// Everything before was passed on: say so.
    Flush(Sender<()>),
}

/// Keeps the log to its end; dropping it waits, for a bounded time, until the last lines are passed on.
#[derive(Debug)]
pub struct Log {
    journal: Option<SyncSender<Told>>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let Some(journal) = &self.journal else { return };
        let (passed_on, done) = channel();
        if journal.try_send(Told::Flush(passed_on)).is_ok() {
            // Past the limit the lines are lost, which is said above.
            done.recv_timeout(LAST_LINES_LIMIT).ok();
        }
    }
}

/// Starts the log; `RUST_LOG` chooses what is logged, `info` by default.
///
/// A journal that cannot be reached is no reason not to start: stderr serves then, which systemd catches too.
#[must_use]
pub fn start() -> Log {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer();
    let journal = journal();
    match &journal {
        // The journal has the time and the level of each entry itself.
        Some(journal) => {
            let lines = lines.with_ansi(false).without_time().with_level(false).with_target(false);
            registry.with(lines.with_writer(Lines(journal.clone()))).init();
        }
        None => registry.with(lines.with_writer(io::stderr)).init(),
    }
    Log { journal }
}

/// Starts the thread that passes lines on to journald; none when systemd has not started the agent.
fn journal() -> Option<SyncSender<Told>> {
    env::var_os("JOURNAL_STREAM")?;
    let layer = tracing_journald::layer().ok()?.with_syslog_identifier("rb-agent".to_owned());
    let (journal, told) = sync_channel(LINES_WAITING_MAX);
    thread::Builder::new().name("log".to_owned()).spawn(move || pass_on(layer, &told)).ok()?;
    Some(journal)
}

fn pass_on(layer: tracing_journald::Layer, told: &Receiver<Told>) {
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for one in told {
            match one {
                Told::Line(Level::ERROR, text) => tracing::error!("{text}"),
                Told::Line(Level::WARN, text) => tracing::warn!("{text}"),
                Told::Line(Level::INFO, text) => tracing::info!("{text}"),
                Told::Line(_, text) => tracing::debug!("{text}"),
                // Who asked may have given up.
                Told::Flush(passed_on) => drop(passed_on.send(())),
            }
        }
    });
}

/// Makes a writer per event, which knows its level.
struct Lines(SyncSender<Told>);

struct Line {
    journal: SyncSender<Told>,
    level: Level,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { journal: self.0.clone(), level: Level::INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line { journal: self.0.clone(), level: *event.level() }
    }
}

impl Write for Line {
    /// Takes a whole event, which is how the subscriber writes.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event).trim_end().to_owned();
        // Without a place the line is lost; see the top.
        self.journal.try_send(Told::Line(self.level, text)).ok();
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_logs_never_waits_for_a_journal_that_takes_nothing() {
        let (journal, _told) = sync_channel(1);
        let mut line = Line { journal, level: Level::WARN };
        for _ in 0..3 {
            assert_eq!(line.write(b"one event\n").expect("it is never refused"), 10);
        }
    }

    #[test]
    fn the_last_lines_are_waited_for() {
        let (journal, told) = sync_channel(4);
        let passing = thread::spawn(move || {
            let mut lines = 0;
            for one in told {
                match one {
                    Told::Line(..) => lines += 1,
                    Told::Flush(passed_on) => {
                        passed_on.send(()).expect("somebody waits");
                        return lines;
                    }
                }
            }
            lines
        });
        let mut line = Line { journal: journal.clone(), level: Level::ERROR };
        line.write_all(b"why it does not start\n").expect("it is never refused");
        drop(Log { journal: Some(journal) });
        assert_eq!(passing.join().expect("no panic"), 1);
    }
}
