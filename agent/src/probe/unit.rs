//! The `unit` probe: all units of the component run, as their service manager says.

use rollback::chain::Chain;
use rollback::model::health::UnitActive;

use super::Seen;
use crate::config::Component;
use crate::ports::Units;

/// Passes when every unit is active.
pub(super) async fn ask(units: &dyn Units, component: &Component) -> Seen {
    let states = units.states(component, &component.units).await.map_err(|error| Chain(&error).to_string())?;
    let down: Vec<String> = states
        .iter()
        .filter(|state| state.active != UnitActive::Active)
        .map(|state| format!("`{}` is {} ({})", state.name, word(state.active), state.sub))
        .collect();
    match (down.is_empty(), states.len()) {
        (false, _) => Err(down.join(", ")),
        (true, 1) => Ok("1 unit runs".to_owned()),
        (true, count) => Ok(format!("{count} units run")),
    }
}

fn word(active: UnitActive) -> &'static str {
    match active {
        UnitActive::Active => "active",
        UnitActive::Activating => "activating",
        UnitActive::Deactivating => "deactivating",
        UnitActive::Inactive => "inactive",
        UnitActive::Failed => "failed",
    }
}
