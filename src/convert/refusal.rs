//! Refusals, outwards only: a client prints them and decides by their code.

use crate::explain;
use crate::model::refusal::Refusal;
use crate::wire::v1;

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        let mut wire = Self {
            code: refusal.code().to_owned(),
            sentence: explain::refusal(&refusal),
            hints: explain::hints(&refusal),
            ..Self::default()
        };
        match refusal {
            Refusal::NoTarget { passed_over } => {
                wire.passed_over = passed_over.into_iter().map(Into::into).collect();
            }
            Refusal::HostChanged { changes } => wire.changes = changes,
            Refusal::Held { lease } => wire.lease = Some((*lease).into()),
            Refusal::NoSuchComponent { .. }
            | Refusal::AmbiguousComponent { .. }
            | Refusal::NoSuchRelease { .. }
            | Refusal::AmbiguousRelease { .. }
            | Refusal::TargetUnfit { .. }
            | Refusal::ReasonNeeded { .. }
            | Refusal::ForceNeeded { .. }
            | Refusal::CurrentUnusable { .. }
            | Refusal::UnitUnusable { .. }
            | Refusal::NeedsOperator { .. }
            | Refusal::OfferUnfit { .. }
            | Refusal::NameTaken { .. }
            | Refusal::NoRoom { .. }
            | Refusal::PushRuns { .. }
            | Refusal::NotReady { .. } => {}
        }
        wire
    }
}
