//! Operations, their steps, outcomes and evidence.

use super::{
    ConvertError, digest, enum_words, list, name, name_or_none, optional_text, required, required_time, time_out, word,
    wrong,
};
use crate::model::effect::{Effect, EffectEnd};
use crate::model::ids::UnitName;
use crate::model::operation::{ChainHead, Evidence, Operation, Outcome, Phase, Step, Trigger};
use crate::wire::v1;

enum_words!(Trigger, v1::Trigger, "trigger", { Manual <=> Manual, External <=> External, Alert <=> Alert });

fn units_out(units: &[UnitName]) -> v1::UnitList {
    v1::UnitList { units: units.iter().map(ToString::to_string).collect() }
}

fn units_in(units: v1::UnitList) -> Result<Vec<UnitName>, ConvertError> {
    list("units", units.units, |unit| name("units", &unit))
}

impl From<Effect> for v1::Effect {
    fn from(effect: Effect) -> Self {
        use v1::effect::Effect as Wire;
        Self {
            effect: Some(match effect {
                Effect::DeadManArmed { release } => Wire::DeadManArmed(release.to_string()),
                Effect::UnitsStopped { units } => Wire::UnitsStopped(units_out(&units)),
                Effect::ConfigurationLinked { release } => Wire::ConfigurationLinked(release.to_string()),
                Effect::CurrentLinked { release } => Wire::CurrentLinked(release.to_string()),
                Effect::UnitsStarted { units } => Wire::UnitsStarted(units_out(&units)),
                Effect::Verified { release } => Wire::Verified(release.to_string()),
                Effect::Watched { release } => Wire::Watched(release.to_string()),
                Effect::Decided { release } => Wire::Decided(release.to_string()),
                Effect::Confirmed { release } => Wire::Confirmed(release.to_string()),
            }),
        }
    }
}

impl TryFrom<v1::Effect> for Effect {
    type Error = ConvertError;

    fn try_from(effect: v1::Effect) -> Result<Self, ConvertError> {
        use v1::effect::Effect as Wire;
        Ok(match required("effect", effect.effect)? {
            Wire::DeadManArmed(id) => Self::DeadManArmed { release: name("release", &id)? },
            Wire::UnitsStopped(units) => Self::UnitsStopped { units: units_in(units)? },
            Wire::ConfigurationLinked(id) => Self::ConfigurationLinked { release: name("release", &id)? },
            Wire::CurrentLinked(id) => Self::CurrentLinked { release: name("release", &id)? },
            Wire::UnitsStarted(units) => Self::UnitsStarted { units: units_in(units)? },
            Wire::Verified(id) => Self::Verified { release: name("release", &id)? },
            Wire::Watched(id) => Self::Watched { release: name("release", &id)? },
            Wire::Decided(id) => Self::Decided { release: name("release", &id)? },
            Wire::Confirmed(id) => Self::Confirmed { release: name("release", &id)? },
        })
    }
}

impl From<Step> for v1::Step {
    fn from(step: Step) -> Self {
        use v1::step::End;
        Self {
            effect: Some(step.effect.into()),
            began_at: Some(time_out(step.began_at)),
            duration_us: step.duration_us,
            end: Some(match step.end {
                EffectEnd::Ensured => End::Ensured(v1::Empty {}),
                EffectEnd::Judged { verdict, health } => End::Judged(v1::Judgement {
                    verdict: v1::Verdict::from(verdict).into(),
                    health: Some(health.into()),
                }),
                EffectEnd::Decided { back, why } => End::Decided(v1::Decision { back, why }),
                EffectEnd::Failed { error } => End::Failed(error),
            }),
            recovered: step.recovered,
        }
    }
}

impl TryFrom<v1::Step> for Step {
    type Error = ConvertError;

    fn try_from(step: v1::Step) -> Result<Self, ConvertError> {
        use v1::step::End;
        Ok(Self {
            effect: required("effect", step.effect)?.try_into()?,
            began_at: required_time("began_at", step.began_at)?,
            duration_us: step.duration_us,
            end: match required("end", step.end)? {
                End::Ensured(v1::Empty {}) => EffectEnd::Ensured,
                End::Judged(judgement) => EffectEnd::Judged {
                    verdict: word::<v1::Verdict>("verdict", judgement.verdict)?.try_into()?,
                    health: required("health", judgement.health)?.try_into()?,
                },
                End::Decided(decision) => EffectEnd::Decided { back: decision.back, why: decision.why },
                End::Failed(error) => EffectEnd::Failed { error },
            },
            recovered: step.recovered,
        })
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        use v1::outcome::Outcome as Wire;
        Self {
            outcome: Some(match outcome {
                Outcome::Done { release } => Wire::Done(release.to_string()),
                Outcome::Unverified { release, verdict, cause } => Wire::Unverified(v1::Unverified {
                    release: release.to_string(),
                    verdict: v1::Verdict::from(verdict).into(),
                    cause,
                }),
                Outcome::PutBack { release, cause } => {
                    Wire::PutBack(v1::PutBack { release: release.to_string(), cause })
                }
                Outcome::NeedsOperator { release, cause } => {
                    Wire::NeedsOperator(v1::NeedsOperator { release: optional_text(release.as_ref()), cause })
                }
                Outcome::Superseded { by } => Wire::Superseded(by.to_string()),
            }),
        }
    }
}

impl TryFrom<v1::Outcome> for Outcome {
    type Error = ConvertError;

    fn try_from(outcome: v1::Outcome) -> Result<Self, ConvertError> {
        use v1::outcome::Outcome as Wire;
        Ok(match required("outcome", outcome.outcome)? {
            Wire::Done(id) => Self::Done { release: name("release", &id)? },
            Wire::Unverified(unverified) => Self::Unverified {
                release: name("release", &unverified.release)?,
                verdict: word::<v1::Verdict>("verdict", unverified.verdict)?.try_into()?,
                cause: unverified.cause,
            },
            Wire::PutBack(put_back) => {
                Self::PutBack { release: name("release", &put_back.release)?, cause: put_back.cause }
            }
            Wire::NeedsOperator(needs) => {
                Self::NeedsOperator { release: name_or_none("release", &needs.release)?, cause: needs.cause }
            }
            Wire::Superseded(by) => Self::Superseded { by: name("superseded", &by)? },
        })
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        use v1::phase::Phase as Wire;
        Self {
            phase: Some(match phase {
                Phase::Arming => Wire::Arming(v1::Empty {}),
                Phase::Stopping => Wire::Stopping(v1::Empty {}),
                Phase::LinkingConfiguration => Wire::LinkingConfiguration(v1::Empty {}),
                Phase::Switching => Wire::Switching(v1::Empty {}),
                Phase::Starting => Wire::Starting(v1::Empty {}),
                Phase::Verifying => Wire::Verifying(v1::Empty {}),
                Phase::Watching => Wire::Watching(v1::Empty {}),
                Phase::Asking => Wire::Asking(v1::Empty {}),
                Phase::Confirming => Wire::Confirming(v1::Empty {}),
                Phase::Ended { outcome } => Wire::Ended(outcome.into()),
            }),
        }
    }
}

impl TryFrom<v1::Phase> for Phase {
    type Error = ConvertError;

    fn try_from(phase: v1::Phase) -> Result<Self, ConvertError> {
        use v1::phase::Phase as Wire;
        Ok(match required("phase", phase.phase)? {
            Wire::Arming(v1::Empty {}) => Self::Arming,
            Wire::Stopping(v1::Empty {}) => Self::Stopping,
            Wire::LinkingConfiguration(v1::Empty {}) => Self::LinkingConfiguration,
            Wire::Switching(v1::Empty {}) => Self::Switching,
            Wire::Starting(v1::Empty {}) => Self::Starting,
            Wire::Verifying(v1::Empty {}) => Self::Verifying,
            Wire::Watching(v1::Empty {}) => Self::Watching,
            Wire::Asking(v1::Empty {}) => Self::Asking,
            Wire::Confirming(v1::Empty {}) => Self::Confirming,
            Wire::Ended(outcome) => Self::Ended { outcome: outcome.try_into()? },
        })
    }
}

impl From<Operation> for v1::Operation {
    fn from(operation: Operation) -> Self {
        Self {
            id: operation.id.to_string(),
            trigger: v1::Trigger::from(operation.trigger).into(),
            actor: operation.actor,
            plan: Some(operation.plan.into()),
            accepted_at: Some(time_out(operation.accepted_at)),
            attempt: u32::try_from(operation.attempt).unwrap_or(u32::MAX),
            phase: Some(operation.phase.into()),
            steps: operation.steps.into_iter().map(Into::into).collect(),
            recoveries: operation.recoveries,
            took_over: optional_text(operation.took_over.as_ref()),
            watched: operation.watched.map(Into::into),
            asked: operation.asked.map(Into::into),
        }
    }
}

impl TryFrom<v1::Operation> for Operation {
    type Error = ConvertError;

    fn try_from(operation: v1::Operation) -> Result<Self, ConvertError> {
        Ok(Self {
            id: name("id", &operation.id)?,
            trigger: word::<v1::Trigger>("trigger", operation.trigger)?.try_into()?,
            actor: operation.actor,
            plan: required("plan", operation.plan)?.try_into()?,
            accepted_at: required_time("accepted_at", operation.accepted_at)?,
            attempt: usize::try_from(operation.attempt).map_err(|error| wrong("attempt", error))?,
            phase: required("phase", operation.phase)?.try_into()?,
            steps: list("steps", operation.steps, TryInto::try_into)?,
            recoveries: operation.recoveries,
            took_over: name_or_none("took_over", &operation.took_over)?,
            watched: operation.watched.map(TryInto::try_into).transpose()?,
            asked: operation.asked.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Evidence> for v1::Evidence {
    fn from(evidence: Evidence) -> Self {
        Self {
            release: optional_text(evidence.release.as_ref()),
            health: Some(evidence.health.into()),
            journal: evidence.journal,
            processes: evidence.processes,
        }
    }
}

impl TryFrom<v1::Evidence> for Evidence {
    type Error = ConvertError;

    fn try_from(evidence: v1::Evidence) -> Result<Self, ConvertError> {
        Ok(Self {
            release: name_or_none("release", &evidence.release)?,
            health: required("health", evidence.health)?.try_into()?,
            journal: list("journal", evidence.journal, Ok)?,
            processes: list("processes", evidence.processes, Ok)?,
        })
    }
}

impl From<ChainHead> for v1::ChainHead {
    fn from(head: ChainHead) -> Self {
        Self { sequence: head.sequence, digest: head.digest.as_bytes().to_vec() }
    }
}

impl TryFrom<v1::ChainHead> for ChainHead {
    type Error = ConvertError;

    fn try_from(head: v1::ChainHead) -> Result<Self, ConvertError> {
        Ok(Self { sequence: head.sequence, digest: digest("digest", &head.digest)? })
    }
}
