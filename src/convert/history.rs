//! Lines of the history and what is asked of it.

use super::{
    ConvertError, enum_words, name, name_or_none, optional_text, required_time, time_or_none, time_out, word, wrong,
};
use crate::model::record::{HistoryFilter, HistoryLine, ResultWord};
use crate::wire::v1;

enum_words!(ResultWord, v1::ResultWord, "result", {
    Done <=> Done, Unverified <=> Unverified, PutBack <=> PutBack, NeedsOperator <=> NeedsOperator,
    Superseded <=> Superseded, Refused <=> Refused,
});

/// Lines given when a request names no limit.
const LIMIT_DEFAULT: u32 = 20;

/// Lines given at most: more is an export, which pages by time.
pub const LIMIT_MAX: u32 = 10_000;

impl From<HistoryLine> for v1::HistoryLine {
    fn from(line: HistoryLine) -> Self {
        Self {
            operation: line.operation.to_string(),
            at: Some(time_out(line.at)),
            environment: optional_text(line.environment.as_ref()),
            component: optional_text(line.component.as_ref()),
            operation_type: line.operation_type.map_or(v1::OperationType::Unspecified, v1::OperationType::from).into(),
            trigger: v1::Trigger::from(line.trigger).into(),
            actor: line.actor,
            reason: line.reason.unwrap_or_default(),
            from: optional_text(line.from.as_ref()),
            to: optional_text(line.to.as_ref()),
            result: v1::ResultWord::from(line.result).into(),
            cause: line.cause.unwrap_or_default(),
            duration_ms: line.duration_ms,
        }
    }
}

impl TryFrom<v1::HistoryLine> for HistoryLine {
    type Error = ConvertError;

    fn try_from(line: v1::HistoryLine) -> Result<Self, ConvertError> {
        let operation_type = match word::<v1::OperationType>("operation_type", line.operation_type)? {
            v1::OperationType::Unspecified => None,
            set @ (v1::OperationType::Previous
            | v1::OperationType::Specific
            | v1::OperationType::Emergency
            | v1::OperationType::Deploy) => Some(set.try_into()?),
        };
        Ok(Self {
            operation: name("operation", &line.operation)?,
            at: required_time("at", line.at)?,
            environment: name_or_none("environment", &line.environment)?,
            component: name_or_none("component", &line.component)?,
            operation_type,
            trigger: word::<v1::Trigger>("trigger", line.trigger)?.try_into()?,
            actor: line.actor,
            reason: (!line.reason.is_empty()).then_some(line.reason),
            from: name_or_none("from", &line.from)?,
            to: name_or_none("to", &line.to)?,
            result: word::<v1::ResultWord>("result", line.result)?.try_into()?,
            cause: (!line.cause.is_empty()).then_some(line.cause),
            duration_ms: line.duration_ms,
        })
    }
}

impl From<HistoryFilter> for v1::HistoryRequest {
    fn from(filter: HistoryFilter) -> Self {
        Self {
            environment: optional_text(filter.environment.as_ref()),
            component: optional_text(filter.component.as_ref()),
            since: filter.since.map(time_out),
            until: filter.until.map(time_out),
            result: filter.result.map_or(v1::ResultWord::Unspecified, v1::ResultWord::from).into(),
            actor: filter.actor.unwrap_or_default(),
            limit: filter.limit,
        }
    }
}

impl TryFrom<v1::HistoryRequest> for HistoryFilter {
    type Error = ConvertError;

    fn try_from(request: v1::HistoryRequest) -> Result<Self, ConvertError> {
        if request.limit > LIMIT_MAX {
            return Err(wrong("limit", format!("is {}, at most {LIMIT_MAX} is allowed", request.limit)));
        }
        let result = match request.result {
            0 => None,
            set => Some(word::<v1::ResultWord>("result", set)?.try_into()?),
        };
        Ok(Self {
            environment: name_or_none("environment", &request.environment)?,
            component: name_or_none("component", &request.component)?,
            since: time_or_none("since", request.since)?,
            until: time_or_none("until", request.until)?,
            result,
            actor: (!request.actor.is_empty()).then_some(request.actor),
            limit: if request.limit == 0 { LIMIT_DEFAULT } else { request.limit },
        })
    }
}
