//! What people say to operations that wait: that a release is well, what is to be done, and that something is on fire.

use std::sync::Arc;
use std::time::Duration;

use rollback::engine::{step, trigger};
use rollback::model::decision::{Action, Choice, Severity};
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::ids::OperationId;
use rollback::model::operation::{Destination, Operation, Phase, Request, Urgency};
use rollback::model::record::Record;
use rollback::model::refusal::Refusal;
use rollback::model::text::{Text, sanitize};
use tokio::sync::oneshot;

use super::registry::{Said, Word};
use super::{Driver, Progress, StartError};
use crate::config::Component;

/// Bytes of an alert that go into a reason: half of what a text may have.
const ALERT_BYTES_MAX: usize = 512;

/// What a word does to the effect that waits.
pub(super) enum Heard {
    /// It goes on.
    GoesOn,
    /// It ends so.
    Ends(EffectEnd),
    /// It begins anew: the operation waits for something else, or for longer.
    Anew,
}

impl Driver {
    /// Confirms the release of a deploy, durably. False when no such deploy is watched or waits for it.
    pub async fn confirm(&self, operation: OperationId, by: String) -> bool {
        self.say(operation, Word::Confirm, by).await
    }

    /// Answers an operation that asks. False when none of that name does.
    pub async fn decide(&self, operation: OperationId, choice: Choice, reason: Option<Text>, by: String) -> bool {
        self.say(operation, Word::Decide { choice, reason }, by).await
    }

    /// Takes an alert from outside: records it, and when it is bad asks for a decision about the deploy that is watched,
    /// or about a rollback. Gives the operation that asks.
    ///
    /// # Errors
    /// When another operation runs, or there is nothing to go back to.
    pub async fn alert(
        &self,
        component: &Component,
        severity: Severity,
        reason: Text,
        by: String,
    ) -> Result<Option<OperationId>, StartError> {
        let (name, environment) = (component.name.clone(), component.environment.clone());
        let (word, actor) = (severity.as_str(), by.clone());
        let text = format!("alert ({word}) by {by}: {reason}");
        self.note(Record::AlertReceived { component: name, environment, severity, reason, actor }).await;
        // An alert is never automatic.
        if trigger::action(severity, None) != Action::Ask {
            tracing::warn!(component = %component.name, "{text}");
            return Ok(None);
        }
        let Some(running) = self.running(&component.environment) else {
            return self.ask_for_rollback(component, text, by).await.map(Some);
        };
        let is_ours = running.plan.component == component.name;
        if is_ours && running.phase == Phase::Asking {
            return Ok(Some(running.id));
        }
        if is_ours && running.plan.watch.is_some() && self.say(running.id, Word::Alert { text }, by).await {
            return Ok(Some(running.id));
        }
        let lease = self.registry(|registry| registry.lease(&component.environment));
        Err(lease.map_or_else(
            || Refusal::NotReady { cause: "the operation that ran has just ended: say it again".to_owned() }.into(),
            |lease| Refusal::Held { lease: Box::new(lease) }.into(),
        ))
    }

    async fn ask_for_rollback(
        &self,
        component: &Component,
        text: String,
        by: String,
    ) -> Result<OperationId, StartError> {
        let now = self.clock().now();
        let reason = Text::new(&sanitize(text.as_bytes(), ALERT_BYTES_MAX).replace(['\n', '\t'], " ")).ok();
        let request = Request {
            operation: OperationId::new(now, self.clock().random()),
            component: Some(component.name.clone()),
            environment: Some(component.environment.clone()),
            to: Destination::Previous,
            urgency: Urgency::Standard,
            force: false,
            reason,
            deploy: None,
            break_glass: false,
        };
        let plan = self.plan(&request).await?;
        let operation = step::begin_alerted(plan, by, now, text);
        let id = operation.id;
        self.launch(component.clone(), operation).await?;
        Ok(id)
    }

    async fn say(&self, operation: OperationId, word: Word, by: String) -> bool {
        let Some(words) = self.registry(|registry| registry.words(operation)) else { return false };
        let (done, heard) = oneshot::channel();
        words.send(Said { word, by, done }).await.is_ok() && heard.await.unwrap_or(false)
    }

    /// Takes what somebody says to an operation while it performs an effect that waits.
    pub(super) async fn hear(
        &self,
        component: &Component,
        operation: &mut Operation,
        effect: &Effect,
        said: Said,
    ) -> Heard {
        let Said { word, by, done } = said;
        let asks = matches!(effect, Effect::Decided { .. });
        let (next, heard) = match word {
            Word::Confirm if !asks => {
                let confirms = matches!(effect, Effect::Confirmed { .. });
                let heard = if confirms { Heard::Ends(EffectEnd::Ensured) } else { Heard::GoesOn };
                (step::confirm(operation.clone(), by), heard)
            }
            Word::Decide { choice: Choice::Investigate, .. } if asks => {
                let by_ms = ask_ms(component, operation);
                (step::investigate(operation.clone(), by_ms), Heard::Anew)
            }
            Word::Decide { choice, reason } if asks => {
                let back = choice == Choice::RollBack;
                let what = if back { "to go back" } else { "to leave it as it is" };
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                let why = format!("{by} decided {what}{reason}");
                (operation.clone(), Heard::Ends(EffectEnd::Decided { back, why }))
            }
            Word::Alert { text } if !asks => (step::alert(operation.clone(), self.clock().now(), text), Heard::Anew),
            Word::Confirm | Word::Decide { .. } | Word::Alert { .. } => {
                // Who asked may have gone.
                done.send(false).ok();
                return Heard::GoesOn;
            }
        };
        *operation = next;
        let kept = self.keep(operation).await;
        let now = Progress { operation: Arc::new(operation.clone()), doing: Some(effect.clone()), head: None };
        self.publish(&component.environment, now);
        if matches!(heard, Heard::Anew) && asks {
            self.arm_again(component, operation).await;
        }
        done.send(kept).ok();
        if kept { heard } else { Heard::GoesOn }
    }

    /// Waits for the deadline of a question; what somebody says before comes another way.
    pub(super) async fn unanswered(&self, operation: &Operation) -> EffectEnd {
        let Some(asked) = &operation.asked else {
            return EffectEnd::Decided { back: false, why: "nobody was asked".to_owned() };
        };
        let passed_ms = asked.since.passed_ms(&self.moment());
        self.clock().sleep(Duration::from_millis(asked.lasts_ms.saturating_sub(passed_ms))).await;
        let why = format!("nobody decided within {} s", asked.lasts_ms / 1_000);
        EffectEnd::Decided { back: step::undecided(operation), why }
    }
}

/// How long somebody has to decide.
pub(super) fn ask_ms(component: &Component, operation: &Operation) -> u64 {
    operation.plan.watch.map_or(component.policy.ask_ms, |watch| watch.ask_ms)
}
