//! The `resource` probe: memory and CPU of all processes of the units together.

use std::sync::Arc;

use rollback::chain::Chain;
use rollback::rules::Reading;
use rollback::rules::usage::Usage;

use super::memory::{Asked, Memory};
use crate::config::ResourceProbe;
use crate::ports::{Clock, Facts, Units};

/// Looks at processes, and remembers what they used before.
pub(super) struct Resources {
    facts: Arc<dyn Facts>,
    clock: Arc<dyn Clock>,
    memory: Memory<Usage>,
}

impl Resources {
    pub(super) fn new(facts: Arc<dyn Facts>, clock: Arc<dyn Clock>) -> Self {
        Self { facts, clock, memory: Memory::default() }
    }

    pub(super) async fn ask(&self, units: &dyn Units, asked: &Asked<'_>, probe: &ResourceProbe) -> Reading {
        let pids = match units.processes(asked.component, &asked.component.units).await {
            Ok(pids) if pids.is_empty() => return Reading::Unknown("no process of the units runs".to_owned()),
            Ok(pids) => pids,
            Err(error) => return Reading::Unknown(Chain(&error).to_string()),
        };
        let facts = Arc::clone(&self.facts);
        let used = tokio::task::spawn_blocking(move || facts.used(&pids)).await.unwrap_or_default();
        let now_ms = u64::try_from(self.clock.boottime().as_millis()).unwrap_or(u64::MAX);
        let memory = used.iter().map(|process| process.memory_bytes).sum();
        #[expect(clippy::cast_precision_loss, reason = "no process uses 2^52 milliseconds of CPU")]
        let cpu = used.iter().map(|process| (format!("{}@{}", process.pid, process.started_at), process.cpu_ms as f64));
        self.memory.with(
            asked,
            || Usage::new(probe.window_ms),
            |usage| {
                usage.look(now_ms, memory, cpu);
                usage.judge(&probe.limits)
            },
        )
    }
}
