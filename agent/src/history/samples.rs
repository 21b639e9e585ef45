//! Operations and records for the tests of history, audit and intent journal.

use jiff::Timestamp;
use rollback::model::digest::Digest;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::health::Health;
use rollback::model::ids::{ComponentName, Environment, OperationId, ReleaseId};
use rollback::model::operation::{
    Destination, Operation, OperationType, Outcome, Phase, Request, Step, Trigger, Urgency,
};
use rollback::model::plan::{Plan, TargetFacts};
use rollback::model::policy::Timeouts;
use rollback::model::record::{Mark, Record};
use rollback::model::refusal::Refusal;
use rollback::model::release::{Manifest, Origin};
use rollback::model::text::Text;

/// A moment so many seconds after the tests' beginning.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in range")
}

/// The identifier of the n-th operation.
pub(crate) fn id(n: u64) -> OperationId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    OperationId::new(at(0), random)
}

pub(crate) fn release(name: &str) -> ReleaseId {
    name.parse().expect("a name")
}

/// What somebody has said of a release of `web`.
pub(crate) fn marked(name: &str, mark: Mark) -> Record {
    Record::ReleaseMarked {
        component: web(),
        environment: prod(),
        release: release(name),
        tree: Digest::of(name.as_bytes()),
        mark,
        reason: Text::new("it has run for a year").expect("a text"),
        actor: "kim".to_owned(),
    }
}

pub(crate) fn web() -> ComponentName {
    "web".parse().expect("a name")
}

pub(crate) fn prod() -> Environment {
    "prod".parse().expect("a name")
}

/// An operation that was accepted at its own second and has stopped the units.
pub(crate) fn operation(n: u64) -> Operation {
    let accepted_at = at(i64::try_from(n).expect("small"));
    let request = Request {
        operation: id(n),
        component: Some(web()),
        environment: Some(prod()),
        to: Destination::Previous,
        urgency: Urgency::Standard,
        force: false,
        reason: Some(Text::new("5xx after deploy").expect("a text")),
        deploy: None,
        break_glass: false,
    };
    let health = Health { units: Vec::new(), probes: Vec::new() };
    let plan = Plan {
        request,
        host: "host1".parse().expect("a name"),
        component: web(),
        environment: prod(),
        operation_type: OperationType::Previous,
        made_at: accepted_at,
        from: Some(release("r3")),
        candidates: vec![release("r2"), release("r1")],
        target: TargetFacts {
            version: None,
            created_at: at(0),
            good_since: None,
            read_at: None,
            tree: Digest::of(b"r2"),
        },
        passed_over: Vec::new(),
        checks: Vec::new(),
        warnings: Vec::new(),
        units: vec!["web.service".parse().expect("a unit")],
        configuration: false,
        timeouts: Timeouts::default(),
        baseline: health,
        facts: Vec::new(),
        fence: Digest::of(b"facts"),
        takes_over: None,
        watch: None,
    };
    let step = Step {
        effect: Effect::UnitsStopped { units: vec!["web.service".parse().expect("a unit")] },
        began_at: accepted_at,
        duration_us: 1_500_000,
        end: EffectEnd::Ensured,
        recovered: false,
    };
    Operation {
        id: id(n),
        trigger: Trigger::Manual,
        actor: "rollback://example/operator/kim".to_owned(),
        plan,
        accepted_at,
        attempt: 0,
        phase: Phase::Switching,
        steps: vec![step],
        recoveries: 0,
        took_over: None,
        watched: None,
        asked: None,
    }
}

/// The record of the start of the n-th operation.
pub(crate) fn started(n: u64) -> Record {
    Record::OperationStarted { operation: Box::new(operation(n)) }
}

/// The record of the end of the n-th operation.
pub(crate) fn ended(n: u64, outcome: Outcome) -> Record {
    let operation = Operation { phase: Phase::Ended { outcome }, ..operation(n) };
    Record::OperationEnded { operation: Box::new(operation), evidence: Vec::new() }
}

pub(crate) fn done(name: &str) -> Outcome {
    Outcome::Done { release: release(name) }
}

pub(crate) fn put_back() -> Outcome {
    Outcome::PutBack { release: release("r3"), cause: "unit `web.service` does not start".to_owned() }
}

/// A refusal of the n-th operation.
pub(crate) fn refused(n: u64, actor: &str) -> Record {
    Record::OperationRefused {
        operation: id(n),
        component: Some(web()),
        environment: Some(prod()),
        actor: actor.to_owned(),
        refusal: Refusal::ReasonNeeded { current: release("r3") },
    }
}

/// The adoption of a release whose tree digest is that of its name.
pub(crate) fn adopted(name: &str) -> Record {
    Record::ReleaseAdopted { component: web(), environment: prod(), manifest: manifest(name) }
}

/// The push of such a release.
pub(crate) fn pushed(name: &str) -> Record {
    let manifest = Manifest { origin: Origin::Pushed, ..manifest(name) };
    Record::ReleasePushed { component: web(), environment: prod(), manifest }
}

fn manifest(name: &str) -> Manifest {
    Manifest {
        id: release(name),
        version: None,
        git_sha: None,
        created_at: at(0),
        created_by: "root".to_owned(),
        recorded_at: at(0),
        origin: Origin::Adopted,
        bytes: 1,
        entries: 1,
        tree: Digest::of(name.as_bytes()),
        configuration: None,
        notes: None,
    }
}
