//! An operation as a history is full of them: a rollback of one unit that was done.

use jiff::{SignedDuration, Timestamp};
use rollback::model::digest::Digest;
use rollback::model::effect::{Effect, EffectEnd};
use rollback::model::health::Health;
use rollback::model::ids::{OperationId, ReleaseId, UnitName};
use rollback::model::operation::{
    Destination, Operation, OperationType, Outcome, Phase, Request, Step, Trigger, Urgency,
};
use rollback::model::plan::{Plan, TargetFacts};
use rollback::model::policy::Timeouts;
use rollback::model::record::Record;
use rollback::model::text::Text;

use crate::figures::Fault;

/// The first of them was accepted then.
const FIRST_SECOND: i64 = 1_800_000_000;
/// Environments and components, which take turns.
const KINDS: u64 = 10;

/// The n-th operation, a minute after the one before it.
pub(crate) fn operation(n: u64) -> Result<Operation, Fault> {
    let at = Timestamp::from_second(FIRST_SECOND)? + SignedDuration::from_mins(i64::try_from(n)?);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    let id = OperationId::new(at, random);
    let (component, environment) = (format!("web{}", n % KINDS).parse()?, format!("prod{}", n % KINDS).parse()?);
    let request = Request {
        operation: id,
        component: Some(component),
        environment: Some(environment),
        to: Destination::Previous,
        urgency: Urgency::Standard,
        force: false,
        reason: Some(Text::new("5xx since the deploy")?),
        deploy: None,
        break_glass: false,
    };
    let (old, new): (ReleaseId, ReleaseId) = ("backup_20241111_120000".parse()?, "backup_20241112_153045".parse()?);
    let units: Vec<UnitName> = vec!["web.service".parse()?];
    let step = |effect| Step { effect, began_at: at, duration_us: 1_500, end: EffectEnd::Ensured, recovered: false };
    let plan = Plan {
        component: format!("web{}", n % KINDS).parse()?,
        environment: format!("prod{}", n % KINDS).parse()?,
        request,
        host: "host1".parse()?,
        operation_type: OperationType::Previous,
        made_at: at,
        from: Some(new),
        candidates: vec![old.clone()],
        target: TargetFacts { version: None, created_at: at, good_since: None, read_at: None, tree: Digest::of(b"r1") },
        passed_over: Vec::new(),
        checks: Vec::new(),
        warnings: Vec::new(),
        units: units.clone(),
        configuration: false,
        timeouts: Timeouts::default(),
        baseline: Health { units: Vec::new(), probes: Vec::new() },
        facts: Vec::new(),
        fence: Digest::of(b"facts"),
        takes_over: None,
        watch: None,
    };
    let steps = vec![
        step(Effect::UnitsStopped { units: units.clone() }),
        step(Effect::CurrentLinked { release: old.clone() }),
        step(Effect::UnitsStarted { units }),
    ];
    Ok(Operation {
        id,
        trigger: Trigger::Manual,
        actor: format!("rollback://example/operator/user{}", n % KINDS),
        plan,
        accepted_at: at,
        attempt: 0,
        phase: Phase::Ended { outcome: Outcome::Done { release: old } },
        steps,
        recoveries: 0,
        took_over: None,
        watched: None,
        asked: None,
    })
}

/// The record of its end.
pub(crate) fn ended(n: u64) -> Result<Record, Fault> {
    Ok(Record::OperationEnded { operation: Box::new(operation(n)?), evidence: Vec::new() })
}
