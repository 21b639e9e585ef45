//! Rules over what processes use: memory and CPU, above a limit or growing at a rate.

use super::Reading;
use super::counters::{Counters, Counts};
use super::window::Window;

const MIB: u64 = 1 << 20;

/// How much of a window must have passed before growth is told: half of it, so that a start is not taken for a leak.
const GROWTH_PART: u64 = 2;

/// The limits; at least one is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Resident memory of all processes together, in bytes.
    pub memory_max: Option<u64>,
    /// Growth of that memory, in bytes a minute.
    pub memory_growth_per_min: Option<u64>,
    /// Use of the processors in percent of one.
    pub cpu_max: Option<u32>,
    /// Growth of that use, in percent of one processor a minute.
    pub cpu_growth_per_min: Option<u32>,
}

/// What the processes used over time.
#[derive(Debug, Clone)]
pub struct Usage {
    window_ms: u64,
    memory: Window<u64>,
    cpu: Counters<()>,
    /// The use of the processors at each look, in percent of one.
    percent: Window<f64>,
}

impl Usage {
    /// Makes a use that was never looked at.
    #[must_use]
    pub fn new(window_ms: u64) -> Self {
        Self {
            window_ms,
            memory: Window::new(window_ms),
            cpu: Counters::new(window_ms),
            percent: Window::new(window_ms),
        }
    }

    /// Takes a look: the memory of all in bytes, and of each process the milliseconds of CPU so far.
    pub fn look(&mut self, now_ms: u64, memory_bytes: u64, cpu_ms: impl IntoIterator<Item = (String, f64)>) {
        self.memory.push(now_ms, memory_bytes);
        let counts: Counts<()> = cpu_ms.into_iter().map(|(process, used)| (((), process), used)).collect();
        self.cpu.look(now_ms, counts);
        if let Some(growth) = self.cpu.growth() {
            let used_ms = growth.by.get(&()).copied().unwrap_or(0.0);
            self.percent.push(now_ms, used_ms * 100.0 / float(growth.over_ms.max(1)));
        }
    }

    /// Judges the use by its limits; beyond one of them is beyond.
    #[must_use]
    pub fn judge(&self, limits: &Limits) -> Reading {
        let mut within = Vec::new();
        let mut unknown = Vec::new();
        let mut beyond = Vec::new();
        let readings = [self.memory(limits), self.growth(limits), self.cpu(limits), self.cpu_growth(limits)];
        for reading in readings.into_iter().flatten() {
            match reading {
                Reading::Within(words) => within.push(words),
                Reading::Unknown(words) => unknown.push(words),
                Reading::Beyond(words) => beyond.push(words),
            }
        }
        if !beyond.is_empty() {
            Reading::Beyond(beyond.join("; "))
        } else if !unknown.is_empty() {
            Reading::Unknown(unknown.join("; "))
        } else {
            Reading::Within(within.join("; "))
        }
    }

    fn memory(&self, limits: &Limits) -> Option<Reading> {
        let max = limits.memory_max?;
        let Some(&used) = self.memory.newest() else { return Some(unread("memory")) };
        let words = format!("{} of memory", mebibytes(used));
        Some(if used > max {
            Reading::Beyond(format!("{words}, {} is the limit", mebibytes(max)))
        } else {
            Reading::Within(words)
        })
    }

    fn growth(&self, limits: &Limits) -> Option<Reading> {
        let max = limits.memory_growth_per_min?;
        let ends = self.memory.ends().filter(|(.., over_ms)| *over_ms >= self.window_ms / GROWTH_PART);
        let Some((first, last, over_ms)) = ends else {
            return Some(Reading::Unknown("how fast memory grows is not known yet".to_owned()));
        };
        let grown = u128::from(last.saturating_sub(*first)) * 60_000 / u128::from(over_ms.max(1));
        let per_min = u64::try_from(grown).unwrap_or(u64::MAX);
        let words = format!("memory grows by {} a minute", mebibytes(per_min));
        Some(if per_min > max {
            Reading::Beyond(format!("{words}, {} is the limit", mebibytes(max)))
        } else {
            Reading::Within(words)
        })
    }

    fn cpu(&self, limits: &Limits) -> Option<Reading> {
        let max = limits.cpu_max?;
        let Some(percent) = self.percent.newest() else { return Some(unread("CPU")) };
        let words = format!("{percent:.0} % of a CPU");
        Some(if *percent > f64::from(max) {
            Reading::Beyond(format!("{words}, {max} % is the limit"))
        } else {
            Reading::Within(words)
        })
    }

    fn cpu_growth(&self, limits: &Limits) -> Option<Reading> {
        let max = limits.cpu_growth_per_min?;
        let ends = self.percent.ends().filter(|(.., over_ms)| *over_ms >= self.window_ms / GROWTH_PART);
        let Some((first, last, over_ms)) = ends else {
            return Some(Reading::Unknown("how fast the use of CPU grows is not known yet".to_owned()));
        };
        let per_min = (last - first).max(0.0) * 60_000.0 / float(over_ms.max(1));
        let words = format!("the use of CPU grows by {per_min:.0} % a minute");
        Some(if per_min > f64::from(max) {
            Reading::Beyond(format!("{words}, {max} % is the limit"))
        } else {
            Reading::Within(words)
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52 milliseconds")]
fn float(millis: u64) -> f64 {
    millis as f64
}

fn unread(what: &str) -> Reading {
    Reading::Unknown(format!("how much {what} is used is not known yet"))
}

fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / u128::from(MIB);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
