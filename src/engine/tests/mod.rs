//! Tables and histories of the engine, and the builders that they share.

mod deploy;
mod histories;
mod hold;
mod plan;
mod push;
mod recover;
mod retain;
mod stats;
mod step;
mod target;
mod trigger;
mod verdict;

use jiff::Timestamp;

use crate::model::decision::Severity;
use crate::model::digest::Digest;
use crate::model::health::{Answer, Health, ProbeResult, UnitActive, UnitLoad, UnitState, Weight};
use crate::model::host::{Activation, Configuration, Current, ObservedComponent, ObservedRelease};
use crate::model::ids::{OperationId, ReleaseId};
use crate::model::operation::{Destination, Operation, Request, Trigger, Urgency};
use crate::model::plan::Plan;
use crate::model::policy::{Policy, Timeouts};
use crate::model::release::{Difference, DifferenceKind, Integrity, Manifest, Origin, Quarantine};
use crate::model::text::Text;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("small seconds are in range")
}

pub(super) fn operation_id(n: u8) -> OperationId {
    OperationId::new(at(1_000), [n; 10])
}

pub(super) fn id(text: &str) -> ReleaseId {
    text.parse().expect("tests use valid names")
}

pub(super) fn unit(name: &str) -> UnitState {
    UnitState {
        name: name.parse().expect("tests use valid names"),
        load: UnitLoad::Loaded,
        active: UnitActive::Active,
        sub: "running".to_owned(),
        main_pid: Some(7),
        invocation: "a".repeat(32),
        restarts: 0,
    }
}

pub(super) fn probe(name: &str, passed: bool) -> ProbeResult {
    ProbeResult {
        name: name.parse().expect("tests use valid names"),
        weight: Weight::Required,
        answer: if passed { Answer::Passed } else { Answer::Failed },
        tries: 1,
        duration_ms: 3,
        detail: if passed { "HTTP 200" } else { "HTTP 500" }.to_owned(),
        severity: Severity::Critical,
    }
}

pub(super) fn health(passed: bool) -> Health {
    Health { units: vec![unit("web.service"), unit("worker.service")], probes: vec![probe("http", passed)] }
}

pub(super) fn request() -> Request {
    Request {
        operation: operation_id(1),
        component: None,
        environment: None,
        to: Destination::Previous,
        urgency: Urgency::Standard,
        force: false,
        reason: Some(Text::new("5xx since the deploy").expect("tests use valid texts")),
        deploy: None,
        break_glass: false,
    }
}

/// Builds a release from its notation: an id of one digit, which is also its age, and flags: `g` good, `d` damaged,
/// `u` integrity unknown, `q` quarantined, `c` configuration missing, `p` pushed, `^` made later than all others.
pub(super) fn release(notation: &str) -> ObservedRelease {
    let (digit, flags) = notation.split_at(1);
    let has = |flag: char| flags.contains(flag);
    let created = if has('^') { 1_000 } else { digit.parse().expect("notations begin with a digit") };
    ObservedRelease {
        manifest: Manifest {
            id: id(&format!("r{digit}")),
            version: Some(format!("v{digit}").parse().expect("tests use valid names")),
            git_sha: None,
            created_at: at(created),
            created_by: "root".to_owned(),
            recorded_at: at(2_000),
            origin: if has('p') { Origin::Pushed } else { Origin::Adopted },
            bytes: 1,
            entries: 1,
            tree: Digest::of(digit.as_bytes()),
            configuration: Some(Digest::of(b"configuration")),
            notes: None,
        },
        integrity: if has('d') {
            let difference = Difference { path: "bin/web".to_owned(), what: DifferenceKind::Content };
            Integrity::Damaged { differences: vec![difference], more: 0 }
        } else if has('u') {
            Integrity::Unknown { why: "the manifest cannot be read".to_owned() }
        } else {
            Integrity::Intact { read_at: at(3_000) }
        },
        configuration: if has('c') { Configuration::Missing("gone".to_owned()) } else { Configuration::Frozen },
        good_since: has('g').then(|| at(100)),
        quarantine: has('q').then(|| Quarantine {
            reason: Text::new("loses orders").expect("tests use valid texts"),
            by: "agent".to_owned(),
            since: at(200),
        }),
        pinned: false,
    }
}

/// Builds a component: releases in the notation of [`release`], activations by their digits from the oldest on, and
/// the digit of the current release, or nothing when `current` is missing.
pub(super) fn observed(releases: &str, activations: &str, current: &str) -> ObservedComponent {
    ObservedComponent {
        host: "web1".parse().expect("tests use valid names"),
        name: "web".parse().expect("tests use valid names"),
        environment: "prod".parse().expect("tests use valid names"),
        observed_at: at(4_000),
        current: if current.is_empty() { Current::Missing } else { Current::Release(id(&format!("r{current}"))) },
        releases: releases.split_whitespace().map(release).collect(),
        activations: activations
            .chars()
            .zip(1..)
            .map(|(digit, sequence)| Activation {
                sequence,
                release: id(&format!("r{digit}")),
                // The clock runs backwards: order is told by the sequence alone.
                at: at(10_000 - i64::try_from(sequence).expect("small")),
                operation: None,
            })
            .collect(),
        health: health(true),
        lease: None,
        policy: Policy { fallbacks_max: 1, ..Policy::default() },
        timeouts: Timeouts::default(),
        automatic_rollbacks: 0,
    }
}

/// Plans a rollback from `r3` to `r2`, with `r1` as fallback.
pub(super) fn a_plan() -> Plan {
    super::plan::plan(&request(), &observed("1g 2g 3", "123", "3"), at(5_000)).expect("nothing stands against it")
}

/// Begins an operation over candidates, from a release or from none, whose baseline passed or not.
pub(super) fn operation(candidates: &[&str], from: Option<&str>, baseline: bool) -> Operation {
    let mut plan = a_plan();
    plan.candidates = candidates.iter().map(|text| id(text)).collect();
    plan.from = from.map(id);
    plan.baseline = health(baseline);
    super::step::begin(plan, Trigger::Manual, "local:uid=0".to_owned(), at(6_000))
}
