//! Requests and plans.

use super::{
    ConvertError, digest, enum_words, list, name, name_or_none, optional_text, required, required_time, text_or_none,
    time_or_none, time_out, word, wrong,
};
use crate::model::host::{Fact, fence};
use crate::model::operation::{Destination, OperationType, Request, Urgency};
use crate::model::plan::{Check, Plan, TargetFacts};
use crate::model::policy::Timeouts;
use crate::wire::v1;

enum_words!(OperationType, v1::OperationType, "operation_type", {
    Previous <=> Previous, Specific <=> Specific, Emergency <=> Emergency, Deploy <=> Deploy,
});

/// Longest text that names a release in a request.
const DESTINATION_BYTES_MAX: usize = 128;

impl From<Request> for v1::Request {
    fn from(request: Request) -> Self {
        Self {
            operation: request.operation.to_string(),
            selector: Some(v1::ComponentSelector {
                component: optional_text(request.component.as_ref()),
                environment: optional_text(request.environment.as_ref()),
            }),
            to: match request.to {
                Destination::Previous => String::new(),
                Destination::Named(text) => text,
            },
            emergency: match request.urgency {
                Urgency::Standard => false,
                Urgency::Emergency => true,
            },
            force: request.force,
            reason: optional_text(request.reason.as_ref()),
            deploy: request.deploy.map(Into::into),
        }
    }
}

impl TryFrom<v1::Request> for Request {
    type Error = ConvertError;

    fn try_from(request: v1::Request) -> Result<Self, ConvertError> {
        let selector = request.selector.unwrap_or_default();
        if request.to.len() > DESTINATION_BYTES_MAX || request.to.chars().any(char::is_control) {
            return Err(wrong("to", "is no identifier or version of a release"));
        }
        Ok(Self {
            operation: name("operation", &request.operation)?,
            component: name_or_none("component", &selector.component)?,
            environment: name_or_none("environment", &selector.environment)?,
            to: if request.to.is_empty() { Destination::Previous } else { Destination::Named(request.to) },
            urgency: if request.emergency { Urgency::Emergency } else { Urgency::Standard },
            force: request.force,
            reason: text_or_none("reason", &request.reason)?,
            deploy: request.deploy.map(TryInto::try_into).transpose()?,
            // Said by the agent, of who calls.
            break_glass: false,
        })
    }
}

impl From<Timeouts> for v1::Timeouts {
    fn from(timeouts: Timeouts) -> Self {
        Self {
            stop_ms: timeouts.stop_ms,
            start_ms: timeouts.start_ms,
            stability_ms: timeouts.stability_ms,
            verify_ms: timeouts.verify_ms,
        }
    }
}

impl From<v1::Timeouts> for Timeouts {
    fn from(timeouts: v1::Timeouts) -> Self {
        Self {
            stop_ms: timeouts.stop_ms,
            start_ms: timeouts.start_ms,
            stability_ms: timeouts.stability_ms,
            verify_ms: timeouts.verify_ms,
        }
    }
}

impl From<TargetFacts> for v1::TargetFacts {
    fn from(target: TargetFacts) -> Self {
        Self {
            version: optional_text(target.version.as_ref()),
            created_at: Some(time_out(target.created_at)),
            good_since: target.good_since.map(time_out),
            read_at: target.read_at.map(time_out),
            tree: target.tree.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<v1::TargetFacts> for TargetFacts {
    type Error = ConvertError;

    fn try_from(target: v1::TargetFacts) -> Result<Self, ConvertError> {
        Ok(Self {
            version: name_or_none("version", &target.version)?,
            created_at: required_time("created_at", target.created_at)?,
            good_since: time_or_none("good_since", target.good_since)?,
            read_at: time_or_none("read_at", target.read_at)?,
            tree: digest("tree", &target.tree)?,
        })
    }
}

impl From<Plan> for v1::Plan {
    fn from(plan: Plan) -> Self {
        Self {
            request: Some(plan.request.into()),
            host: plan.host.to_string(),
            component: plan.component.to_string(),
            environment: plan.environment.to_string(),
            operation_type: v1::OperationType::from(plan.operation_type).into(),
            made_at: Some(time_out(plan.made_at)),
            from: optional_text(plan.from.as_ref()),
            candidates: plan.candidates.iter().map(ToString::to_string).collect(),
            target: Some(plan.target.into()),
            passed_over: plan.passed_over.into_iter().map(Into::into).collect(),
            checks: plan.checks.into_iter().map(|c| v1::Check { name: c.name, found: c.found }).collect(),
            warnings: plan.warnings,
            units: plan.units.iter().map(ToString::to_string).collect(),
            configuration: plan.configuration,
            timeouts: Some(plan.timeouts.into()),
            baseline: Some(plan.baseline.into()),
            facts: plan.facts.into_iter().map(|f| v1::Fact { subject: f.subject, value: f.value }).collect(),
            fence: plan.fence.as_bytes().to_vec(),
            takes_over: optional_text(plan.takes_over.as_ref()),
            watch: plan.watch.map(Into::into),
        }
    }
}

impl TryFrom<v1::Plan> for Plan {
    type Error = ConvertError;

    fn try_from(plan: v1::Plan) -> Result<Self, ConvertError> {
        let candidates = list("candidates", plan.candidates, |id| name("candidates", &id))?;
        if candidates.is_empty() {
            return Err(ConvertError::Missing("candidates"));
        }
        let facts = list("facts", plan.facts, |f| Ok(Fact { subject: f.subject, value: f.value }))?;
        let token = digest("fence", &plan.fence)?;
        if token != fence(&facts) {
            return Err(wrong("fence", "is not the digest of the plan's facts: the plan was edited or damaged"));
        }
        Ok(Self {
            request: required("request", plan.request)?.try_into()?,
            host: name("host", &plan.host)?,
            component: name("component", &plan.component)?,
            environment: name("environment", &plan.environment)?,
            operation_type: word::<v1::OperationType>("operation_type", plan.operation_type)?.try_into()?,
            made_at: required_time("made_at", plan.made_at)?,
            from: name_or_none("from", &plan.from)?,
            candidates,
            target: required("target", plan.target)?.try_into()?,
            passed_over: list("passed_over", plan.passed_over, TryInto::try_into)?,
            checks: list("checks", plan.checks, |c| Ok(Check { name: c.name, found: c.found }))?,
            warnings: list("warnings", plan.warnings, Ok)?,
            units: list("units", plan.units, |unit| name("units", &unit))?,
            configuration: plan.configuration,
            timeouts: required("timeouts", plan.timeouts)?.into(),
            baseline: required("baseline", plan.baseline)?.try_into()?,
            facts,
            fence: token,
            takes_over: name_or_none("takes_over", &plan.takes_over)?,
            watch: plan.watch.map(TryInto::try_into).transpose()?,
        })
    }
}
