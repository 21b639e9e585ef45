//! Refusals and failures as gRPC errors: one exhaustive table.

use prost::Message as _;
use rollback::chain::Chain;
use rollback::convert::ConvertError;
use rollback::explain;
use rollback::model::refusal::Refusal;
use rollback::wire::v1;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::authz::ERROR_DOMAIN;
use crate::driver::StartError;
use crate::ports::{PortError, PushError};

/// The metadata key under which a refusal travels as a message.
pub const REFUSAL_KEY: &str = "refusal-bin";

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NoSuchComponent { .. } | Refusal::NoSuchRelease { .. } => Code::NotFound,
        Refusal::AmbiguousComponent { .. } | Refusal::AmbiguousRelease { .. } => Code::InvalidArgument,
        Refusal::Held { .. } | Refusal::HostChanged { .. } | Refusal::PushRuns { .. } => Code::Aborted,
        Refusal::NoRoom { .. } => Code::ResourceExhausted,
        Refusal::NotReady { .. } => Code::Unavailable,
        Refusal::NoTarget { .. }
        | Refusal::TargetUnfit { .. }
        | Refusal::ReasonNeeded { .. }
        | Refusal::ForceNeeded { .. }
        | Refusal::CurrentUnusable { .. }
        | Refusal::UnitUnusable { .. }
        | Refusal::OfferUnfit { .. }
        | Refusal::NameTaken { .. }
        | Refusal::NeedsOperator { .. } => Code::FailedPrecondition,
    }
}

/// Turns a refusal into what the client gets.
pub(super) fn refused(refusal: Refusal) -> Status {
    let details = ErrorDetails::with_error_info(refusal.code(), ERROR_DOMAIN, []);
    let mut status = Status::with_error_details(code(&refusal), explain::refusal(&refusal), details);
    let bytes = v1::Refusal::from(refusal).encode_to_vec();
    status.metadata_mut().insert_bin(REFUSAL_KEY, MetadataValue::from_bytes(&bytes));
    status
}

/// Turns a failed beginning into what the client gets.
pub(super) fn not_started(error: StartError) -> Status {
    match error {
        StartError::Refused(refusal) => refused(refusal),
        StartError::Failed(error) => failed(&error),
    }
}

/// Turns a push that came to nothing into what the client gets.
pub(super) fn not_pushed(error: PushError) -> Status {
    match error {
        PushError::Refused(refusal) => refused(refusal),
        PushError::Failed(error) => failed(&error),
    }
}

/// Turns a failure of the host into what the client gets.
pub(super) fn failed(error: &PortError) -> Status {
    let text = Chain(error).to_string();
    match error {
        PortError::Deadline { .. } => Status::deadline_exceeded(text),
        PortError::Failed { .. } | PortError::Unfit { .. } | PortError::Durability { .. } => Status::internal(text),
    }
}

/// Turns a message that is not what it should be into what the client gets.
#[expect(clippy::needless_pass_by_value, reason = "used with `map_err`")]
pub(super) fn invalid(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}
