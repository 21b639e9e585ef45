//! What `rb-agent revert` does: goes back to what ran before a deploy whose watch has not ended in time.
//!
//! | found | at its deadline | at boot |
//! |---|---|---|
//! | not armed any more | nothing: the watch has ended | nothing |
//! | armed, time is left | nothing: another timer follows | a timer for what is left |
//! | armed, its deadline is past | stop, link, start | link: the units start by themselves, after this |
//! | firing, cut off in the middle | the same again | the same again |
//! | `current` leads to a third release | nothing: another hand has gone on from here | nothing |
//!
//! What it did is in `OPERATION.fired`, for the history of the next agent.

use std::path::Path;
use std::time::Duration;

use rollback::chain::Chain;
use rollback::explain;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::ids::OperationId;
use rollback::model::operation::Step;

use super::armed::{Armed, Files, Found};
use super::set_timer;
use crate::clock::{SystemClock, moment};
use crate::observe::blocking;
use crate::ports::{Clock, PortError, Store, Units};
use crate::release::DiskStore;
use crate::units::Managers;

/// A timer may run this much early by its accuracy and by two clocks; the rest is waited for here.
const EARLY_MAX: Duration = Duration::from_secs(1);

/// When it runs, and so how far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Deadline,
    Boot,
}

/// Goes back for one operation, when its deadline is past.
///
/// # Errors
/// When a file of the switch cannot be read or written. That a step of going back failed is in its report.
pub async fn at_deadline(state: &Path, operation: OperationId) -> Result<(), PortError> {
    one(&Files::new(state), operation, When::Deadline).await
}

/// Goes back for every operation whose deadline is past, and sets timers for the others.
///
/// # Errors
/// The first error; the other operations are seen to all the same.
pub async fn at_boot(state: &Path) -> Result<(), PortError> {
    let files = Files::new(state);
    let mut operations = files.armed()?;
    operations.extend(files.all_fired()?);
    let mut result = Ok(());
    for operation in operations {
        let done = one(&files, operation, When::Boot).await;
        result = result.and(done);
    }
    result
}

async fn one(files: &Files, operation: OperationId, when: When) -> Result<(), PortError> {
    let armed = match files.find(operation)? {
        None => {
            tracing::info!(%operation, "nothing is armed: the watch has ended");
            return Ok(());
        }
        Some(Found::Firing(armed)) => armed,
        Some(Found::Armed(armed)) => {
            let left = armed.left(&moment(&SystemClock));
            match when {
                When::Deadline if left > EARLY_MAX => {
                    tracing::info!(%operation, left_ms = left.as_millis(), "its deadline was put off");
                    return Ok(());
                }
                When::Boot if !left.is_zero() => return set_timer(operation, left).await,
                When::Deadline | When::Boot => SystemClock.sleep(left).await,
            }
            if !files.claim(operation)? {
                return Ok(());
            }
            armed
        }
    };
    tracing::warn!(%operation, "the watch has not ended by its deadline: going back to `{}`", armed.from);
    let at = SystemClock.now();
    let steps = go_back(&armed, when).await;
    files.report(operation, at, steps)
}

/// Takes every step, also after one has failed: a unit on a good link is better than none. Takes none where another hand
/// has gone on.
async fn go_back(armed: &Armed, when: When) -> Vec<Step> {
    let component = armed.component();
    let (units, from) = (armed.units.clone(), armed.from.clone());
    if let Some(elsewhere) = led_elsewhere(armed).await {
        tracing::warn!(operation = %armed.operation, "left alone: {elsewhere}");
        return Vec::new();
    }
    let managers = Managers::default();
    let mut steps = Vec::new();
    if when == When::Deadline {
        let (began, limit) = (SystemClock.boottime(), Duration::from_millis(armed.timeouts.stop_ms));
        let stopped: Vec<_> = units.iter().rev().cloned().collect();
        let end = managers.stop(&component, &stopped, limit).await;
        steps.push(step(Effect::UnitsStopped { units: stopped }, began, end));
    }
    if component.configuration.is_some() {
        let (began, owned, release) = (SystemClock.boottime(), component.clone(), from.clone());
        let end = blocking(move || DiskStore::new().link_configuration(&owned, &release)).await;
        steps.push(step(Effect::ConfigurationLinked { release: from.clone() }, began, end));
    }
    let (began, owned, release) = (SystemClock.boottime(), component.clone(), from.clone());
    let end = blocking(move || DiskStore::new().link_current(&owned, &release)).await;
    steps.push(step(Effect::CurrentLinked { release: from }, began, end));
    if when == When::Deadline {
        let (began, limit) = (SystemClock.boottime(), Duration::from_millis(armed.timeouts.start_ms));
        let end = managers.start(&component, &units, limit).await;
        steps.push(step(Effect::UnitsStarted { units }, began, end));
    }
    steps
}

/// Says where `current` leads when that is neither the release that was deployed nor the one before it.
async fn led_elsewhere(armed: &Armed) -> Option<String> {
    let owned = armed.component();
    let current = blocking(move || DiskStore::new().current(&owned)).await.ok()?;
    let ours = current.release().is_none_or(|release| [&armed.from, &armed.to].contains(&release));
    (!ours).then(|| format!("`{}` {}", armed.component().current, explain::current(&current)))
}

fn step(effect: Effect, began: Duration, end: Result<(), PortError>) -> Step {
    let took = SystemClock.boottime().saturating_sub(began);
    let end = match end {
        Ok(()) => EffectEnd::Ensured,
        Err(error) => {
            tracing::error!(step = effect.name(), "{}", Chain(&error));
            EffectEnd::Failed { error: Chain(&error).to_string() }
        }
    };
    let began_at = SystemClock.now().checked_sub(took).unwrap_or_else(|_| SystemClock.now());
    Step { effect, began_at, duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX), end, recovered: false }
}
