//! What rules remember between two looks, for as long as the same processes run under the same rule.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rollback::chain::Chain;
use rollback::model::ids::{ComponentName, Environment, ProbeName};

use crate::config::{Component, Probe, ProbeKind};
use crate::ports::Units;

type Key = (Environment, ComponentName, ProbeName);

/// One rule as it is asked now.
pub(super) struct Asked<'a> {
    pub(super) component: &'a Component,
    pub(super) probe: &'a Probe,
    /// The starts of the units, each 32 hexadecimal digits; what another start did is no sample of this one.
    pub(super) invocations: Vec<String>,
}

impl<'a> Asked<'a> {
    /// Asks for the starts that run now.
    ///
    /// # Errors
    /// When the manager does not tell, in words.
    pub(super) async fn now(units: &dyn Units, component: &'a Component, probe: &'a Probe) -> Result<Self, String> {
        let states = units.states(component, &component.units).await.map_err(|error| Chain(&error).to_string())?;
        let invocations = states.into_iter().map(|state| state.invocation).filter(|start| !start.is_empty()).collect();
        Ok(Self { component, probe, invocations })
    }
}

/// What is remembered of one rule.
struct Entry<S> {
    kind: ProbeKind,
    invocations: Vec<String>,
    samples: S,
}

/// What is remembered of every rule of one kind.
pub(super) struct Memory<S> {
    known: Mutex<HashMap<Key, Entry<S>>>,
}

impl<S> Default for Memory<S> {
    fn default() -> Self {
        Self { known: Mutex::new(HashMap::new()) }
    }
}

impl<S> Memory<S> {
    /// Acts on the samples of a rule; on fresh ones when the rule or the processes are others than at the last look.
    pub(super) fn with<R>(&self, asked: &Asked<'_>, fresh: impl FnOnce() -> S, act: impl FnOnce(&mut S) -> R) -> R {
        let key = (asked.component.environment.clone(), asked.component.name.clone(), asked.probe.name.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |entry: &Entry<S>| entry.kind == asked.probe.kind && entry.invocations == asked.invocations;
        let entry = known.remove(&key).filter(is_same).unwrap_or_else(|| Entry {
            kind: asked.probe.kind.clone(),
            invocations: asked.invocations.clone(),
            samples: fresh(),
        });
        act(&mut known.entry(key).or_insert(entry).samples)
    }
}
