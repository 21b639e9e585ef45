//! Wire and model agree: what goes out comes back in, and what is wrong does not come in.

use std::fmt::Debug;

use jiff::Timestamp;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{ConvertError, LIST_ITEMS_MAX};
use crate::model::decision::{Asked, Severity, Undecided};
use crate::model::digest::Digest;
use crate::model::effect::{Effect, EffectEnd};
use crate::model::health::{Answer, Health, ProbeResult, UnitActive, UnitLoad, UnitState, Verdict, Weight};
use crate::model::host::{Configuration, Fact, Lease, ObservedRelease, fence};
use crate::model::ids::{ComponentName, Environment, HostName, OperationId, ProbeName, ReleaseId, UnitName, Version};
use crate::model::offer::{Label, Offered, OfferedFile, OfferedKind};
use crate::model::operation::{
    ChainHead, Destination, Evidence, Operation, OperationType, Outcome, Phase, Request, Step, Trigger, Urgency,
};
use crate::model::plan::{Check, Plan, TargetFacts};
use crate::model::policy::Timeouts;
use crate::model::record::{HistoryLine, ResultWord};
use crate::model::refusal::{PassedOver, Unfit};
use crate::model::release::{Difference, DifferenceKind, Integrity, Manifest, Origin, Quarantine};
use crate::model::text::Text;
use crate::model::watch::{Moment, WATCH_MS_MAX, WATCH_MS_MIN, Watch, WatchTerms, Watched};
use crate::wire::v1;

/// Sends a value through its wire form and its bytes and back.
fn round<M, W>(value: &M) -> Result<M, TestCaseError>
where
    M: Clone + Debug + PartialEq + TryFrom<W, Error = ConvertError>,
    W: prost::Message + Default + From<M>,
{
    let bytes = W::from(value.clone()).encode_to_vec();
    let wire = W::decode(&bytes[..]).map_err(|error| TestCaseError::fail(error.to_string()))?;
    M::try_from(wire).map_err(|error| TestCaseError::fail(error.to_string()))
}

fn parsed<T: std::str::FromStr<Err: Debug> + Debug>(pattern: &'static str) -> impl Strategy<Value = T> {
    pattern.prop_map(|text: String| text.parse().expect("the pattern has only valid names"))
}

fn release_id() -> impl Strategy<Value = ReleaseId> {
    parsed("[a-z0-9][a-z0-9._+~-]{0,20}")
}

fn component() -> impl Strategy<Value = ComponentName> {
    parsed("[a-z][a-z0-9-]{0,9}")
}

fn environment() -> impl Strategy<Value = Environment> {
    parsed("[a-z][a-z0-9-]{0,9}")
}

fn unit_name() -> impl Strategy<Value = UnitName> {
    parsed("[a-z][a-z0-9@-]{0,9}\\.service")
}

fn time() -> impl Strategy<Value = Timestamp> {
    (-100_000_000_000_i64..100_000_000_000, 0..1_000_000_000)
        .prop_map(|(seconds, nanos)| Timestamp::new(seconds, nanos).expect("in range"))
}

fn operation_id() -> impl Strategy<Value = OperationId> {
    (0_i64..10_000_000_000, any::<[u8; 10]>())
        .prop_map(|(seconds, random)| OperationId::new(Timestamp::from_second(seconds).expect("in range"), random))
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn text() -> impl Strategy<Value = Text> {
    "[a-zäß][a-z ,:#äß]{0,20}[a-z]".prop_map(|text| Text::new(&text).expect("the pattern has only valid texts"))
}

/// Any words that a message may carry, empty ones too.
fn words() -> impl Strategy<Value = String> {
    "[ -~äß]{0,20}"
}

/// Words where none and empty are one on the wire.
fn some_words() -> impl Strategy<Value = String> {
    "[ -~äß]{1,20}"
}

fn few<S: Strategy>(strategy: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(strategy, 0..4)
}

prop_compose! {
    fn unit()(
        name in unit_name(),
        load in select(vec![UnitLoad::Loaded, UnitLoad::Masked, UnitLoad::NotFound, UnitLoad::Error]),
        active in select(vec![
            UnitActive::Active, UnitActive::Activating, UnitActive::Deactivating, UnitActive::Inactive, UnitActive::Failed,
        ]),
        sub in words(), main_pid in option::of(1_u32..), invocation in words(), restarts: u32,
    ) -> UnitState {
        UnitState { name, load, active, sub, main_pid, invocation, restarts }
    }
}

prop_compose! {
    fn probe()(
        name in parsed::<ProbeName>("[a-z]{1,9}"),
        weight in select(vec![Weight::Required, Weight::Advisory]),
        answer in select(vec![Answer::Passed, Answer::Failed, Answer::Undecided]),
        tries: u32, duration_ms: u64, detail in words(), severity in select(Severity::ALL.to_vec()),
    ) -> ProbeResult {
        ProbeResult { name, weight, answer, tries, duration_ms, detail, severity }
    }
}

prop_compose! {
    fn health()(units in few(unit()), probes in few(probe())) -> Health {
        Health { units, probes }
    }
}

prop_compose! {
    fn terms()(
        lasts_ms in option::of(WATCH_MS_MIN..=WATCH_MS_MAX),
        auto: Option<bool>,
        confirm_ms in option::of(WATCH_MS_MIN..=WATCH_MS_MAX),
    ) -> WatchTerms {
        WatchTerms { lasts_ms, auto, confirm_ms }
    }
}

prop_compose! {
    fn watch()(
        lasts_ms in WATCH_MS_MIN..=WATCH_MS_MAX,
        auto: bool,
        confirm_ms in option::of(WATCH_MS_MIN..=WATCH_MS_MAX),
        dead_man: bool,
        automatic_from in select(Severity::ALL.to_vec()),
        ask_ms: u64,
        undecided in select(vec![Undecided::RollBack, Undecided::Stay]),
    ) -> Watch {
        Watch { lasts_ms, auto, confirm_ms, dead_man, automatic_from, ask_ms, undecided }
    }
}

prop_compose! {
    fn moment()(boot in some_words(), since_boot_ms: u64, at in time()) -> Moment {
        Moment { boot, since_boot_ms, at }
    }
}

prop_compose! {
    fn watched()(
        began in moment(), confirmed_by in option::of(some_words()),
        failing in prop::collection::btree_map(parsed::<ProbeName>("[a-z]{1,9}"), moment(), 0..3),
    ) -> Watched {
        Watched { began, confirmed_by, failing }
    }
}

prop_compose! {
    fn asked()(boot in some_words(), since_boot_ms: u64, at in time(), lasts_ms: u64) -> Asked {
        Asked { since: Moment { boot, since_boot_ms, at }, lasts_ms }
    }
}

prop_compose! {
    fn request()(
        operation in operation_id(),
        component in option::of(component()),
        environment in option::of(environment()),
        to in option::of(some_words()),
        urgency in select(vec![Urgency::Standard, Urgency::Emergency]),
        force: bool,
        reason in option::of(text()),
        deploy in option::of(terms()),
    ) -> Request {
        let to = to.map_or(Destination::Previous, Destination::Named);
        Request { operation, component, environment, to, urgency, force, reason, deploy, break_glass: false }
    }
}

fn difference() -> impl Strategy<Value = Difference> {
    let kinds = vec![
        DifferenceKind::Missing,
        DifferenceKind::Added,
        DifferenceKind::Content,
        DifferenceKind::Mode,
        DifferenceKind::Type,
        DifferenceKind::Target,
    ];
    (words(), select(kinds)).prop_map(|(path, what)| Difference { path, what })
}

fn integrity() -> impl Strategy<Value = Integrity> {
    prop_oneof![
        time().prop_map(|read_at| Integrity::Intact { read_at }),
        (few(difference()), any::<u64>()).prop_map(|(differences, more)| Integrity::Damaged { differences, more }),
        words().prop_map(|why| Integrity::Unknown { why }),
    ]
}

fn passed_over() -> impl Strategy<Value = PassedOver> {
    let unfit = prop_oneof![
        Just(Unfit::IsCurrent),
        Just(Unfit::NeverVerified),
        Just(Unfit::Gone),
        (words(), words(), time()).prop_map(|(reason, by, since)| Unfit::Quarantined { reason, by, since }),
        (option::of(parsed::<Version>("[0-9][0-9.]{0,5}")), parsed::<Version>("[0-9][0-9.]{0,5}"))
            .prop_map(|(version, floor)| Unfit::BelowFloor { version, floor }),
        (few(difference()), any::<u64>()).prop_map(|(differences, more)| Unfit::Damaged { differences, more }),
        words().prop_map(|cause| Unfit::IntegrityUnknown { cause }),
        words().prop_map(|cause| Unfit::ConfigurationMissing { cause }),
    ];
    (release_id(), unfit).prop_map(|(release, unfit)| PassedOver { release, unfit })
}

prop_compose! {
    fn manifest()(
        id in release_id(),
        version in option::of(parsed::<Version>("[0-9][0-9.]{0,5}")),
        git_sha in option::of("[0-9a-f]{7,64}"),
        (created_at, recorded_at) in (time(), time()),
        created_by in words(),
        origin in select(vec![Origin::Adopted, Origin::Pushed]),
        (bytes, entries) in any::<(u64, u64)>(),
        tree in digest(),
        configuration in option::of(digest()),
        notes in option::of(text()),
    ) -> Manifest {
        Manifest {
            id, version, git_sha, created_at, created_by, recorded_at, origin, bytes, entries, tree, configuration, notes,
        }
    }
}

fn observed_release() -> impl Strategy<Value = ObservedRelease> {
    let configuration = prop_oneof![
        Just(Configuration::NotKept),
        Just(Configuration::Frozen),
        some_words().prop_map(Configuration::Missing),
    ];
    let quarantine = (text(), words(), time()).prop_map(|(reason, by, since)| Quarantine { reason, by, since });
    (manifest(), integrity(), configuration, option::of(time()), option::of(quarantine), any::<bool>()).prop_map(
        |(manifest, integrity, configuration, good_since, quarantine, pinned)| ObservedRelease {
            manifest,
            integrity,
            configuration,
            good_since,
            quarantine,
            pinned,
        },
    )
}

prop_compose! {
    fn target()(
        version in option::of(parsed::<Version>("[0-9][0-9.]{0,5}")),
        created_at in time(), good_since in option::of(time()), read_at in option::of(time()), tree in digest(),
    ) -> TargetFacts {
        TargetFacts { version, created_at, good_since, read_at, tree }
    }
}

fn operation_type() -> impl Strategy<Value = OperationType> {
    select(vec![OperationType::Previous, OperationType::Specific, OperationType::Emergency, OperationType::Deploy])
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    any::<[u64; 4]>().prop_map(|[stop_ms, start_ms, stability_ms, verify_ms]| Timeouts {
        stop_ms,
        start_ms,
        stability_ms,
        verify_ms,
    })
}

prop_compose! {
    fn plan()(
        (request, host) in (request(), parsed::<HostName>("[a-z][a-z0-9]{0,9}")),
        (component, environment) in (component(), environment()),
        (operation_type, made_at, timeouts) in (operation_type(), time(), timeouts()),
        from in option::of(release_id()),
        candidates in prop::collection::vec(release_id(), 1..4),
        target in target(),
        passed_over in few(passed_over()),
        checks in few((words(), words()).prop_map(|(name, found)| Check { name, found })),
        (warnings, units, configuration) in (few(words()), few(unit_name()), any::<bool>()),
        baseline in health(),
        facts in few((words(), words()).prop_map(|(subject, value)| Fact { subject, value })),
        (takes_over, watch) in (option::of(operation_id()), option::of(watch())),
    ) -> Plan {
        Plan {
            fence: fence(&facts),
            request, host, component, environment, operation_type, made_at, timeouts, from, candidates, target,
            passed_over, checks, warnings, units, configuration, baseline, facts, takes_over, watch,
        }
    }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    select(vec![Verdict::Passing, Verdict::ReleaseBad, Verdict::EnvironmentBad, Verdict::Inconclusive])
}

fn step() -> impl Strategy<Value = Step> {
    let effect = prop_oneof![
        release_id().prop_map(|release| Effect::DeadManArmed { release }),
        few(unit_name()).prop_map(|units| Effect::UnitsStopped { units }),
        release_id().prop_map(|release| Effect::ConfigurationLinked { release }),
        release_id().prop_map(|release| Effect::CurrentLinked { release }),
        few(unit_name()).prop_map(|units| Effect::UnitsStarted { units }),
        release_id().prop_map(|release| Effect::Verified { release }),
        release_id().prop_map(|release| Effect::Watched { release }),
        release_id().prop_map(|release| Effect::Confirmed { release }),
        release_id().prop_map(|release| Effect::Decided { release }),
    ];
    let end = prop_oneof![
        Just(EffectEnd::Ensured),
        (verdict(), health()).prop_map(|(verdict, health)| EffectEnd::Judged { verdict, health }),
        words().prop_map(|error| EffectEnd::Failed { error }),
        (any::<bool>(), words()).prop_map(|(back, why)| EffectEnd::Decided { back, why }),
    ];
    (effect, time(), any::<u64>(), end, any::<bool>()).prop_map(|(effect, began_at, duration_us, end, recovered)| {
        Step { effect, began_at, duration_us, end, recovered }
    })
}

fn phase() -> impl Strategy<Value = Phase> {
    let outcome = prop_oneof![
        release_id().prop_map(|release| Outcome::Done { release }),
        (release_id(), verdict(), words()).prop_map(|(release, verdict, cause)| Outcome::Unverified {
            release,
            verdict,
            cause
        }),
        (release_id(), words()).prop_map(|(release, cause)| Outcome::PutBack { release, cause }),
        (option::of(release_id()), words()).prop_map(|(release, cause)| Outcome::NeedsOperator { release, cause }),
        operation_id().prop_map(|by| Outcome::Superseded { by }),
    ];
    prop_oneof![
        Just(Phase::Arming),
        Just(Phase::Stopping),
        Just(Phase::LinkingConfiguration),
        Just(Phase::Switching),
        Just(Phase::Starting),
        Just(Phase::Verifying),
        Just(Phase::Watching),
        Just(Phase::Confirming),
        Just(Phase::Asking),
        outcome.prop_map(|outcome| Phase::Ended { outcome }),
    ]
}

prop_compose! {
    fn operation()(
        id in operation_id(), actor in words(), plan in plan(), accepted_at in time(), attempt in 0_usize..9,
        phase in phase(), steps in few(step()), recoveries: u32, took_over in option::of(operation_id()),
        trigger in select(vec![Trigger::Manual, Trigger::External, Trigger::Alert]),
        (watched, asked) in (option::of(watched()), option::of(asked())),
    ) -> Operation {
        Operation {
            id, trigger, actor, plan, accepted_at, attempt, phase, steps, recoveries, took_over, watched, asked,
        }
    }
}

prop_compose! {
    fn line()(
        (operation, at) in (operation_id(), time()),
        (environment, component) in (option::of(environment()), option::of(component())),
        operation_type in option::of(operation_type()),
        actor in words(),
        reason in option::of(some_words()),
        (from, to) in (option::of(release_id()), option::of(release_id())),
        result in select(vec![
            ResultWord::Done, ResultWord::Unverified, ResultWord::PutBack, ResultWord::NeedsOperator,
            ResultWord::Superseded, ResultWord::Refused,
        ]),
        cause in option::of(some_words()),
        duration_ms: u64,
    ) -> HistoryLine {
        HistoryLine {
            trigger: Trigger::Manual,
            operation, at, environment, component, operation_type, actor, reason, from, to, result, cause, duration_ms,
        }
    }
}

proptest! {
    #[test]
    fn requests_come_back(value in request()) {
        prop_assert_eq!(round::<_, v1::Request>(&value)?, value);
    }

    #[test]
    fn plans_come_back(value in plan()) {
        prop_assert_eq!(round::<_, v1::Plan>(&value)?, value);
    }

    #[test]
    fn operations_come_back(value in operation()) {
        prop_assert_eq!(round::<_, v1::Operation>(&value)?, value);
    }

    #[test]
    fn releases_come_back(value in observed_release()) {
        prop_assert_eq!(round::<_, v1::Release>(&value)?, value);
    }

    #[test]
    fn history_lines_come_back(value in line()) {
        prop_assert_eq!(round::<_, v1::HistoryLine>(&value)?, value);
    }

    #[test]
    fn evidence_comes_back(
        release in option::of(release_id()), health in health(), journal in few(words()), processes in few(words()),
    ) {
        let value = Evidence { release, health, journal, processes };
        prop_assert_eq!(round::<_, v1::Evidence>(&value)?, value);
    }

    #[test]
    fn offered_entries_come_back(
        path in prop::collection::vec(any::<u8>(), 0..9), mode: u32, bytes: u64, content in digest(), modified in time(),
        kind in 0..3,
    ) {
        let kind = match kind {
            0 => OfferedKind::Directory,
            1 => OfferedKind::Link(path.clone()),
            _ => OfferedKind::File(OfferedFile { bytes, content, modified }),
        };
        let value = Offered { path, mode, kind };
        prop_assert_eq!(round::<_, v1::OfferedEntry>(&value)?, value);
    }

    #[test]
    fn labels_come_back(
        release in release_id(), version in option::of(parsed::<Version>("[0-9][0-9.]{0,5}")),
        git_sha in option::of("[0-9a-f]{7,64}"), notes in option::of(text()),
    ) {
        let value = Label { release, version, git_sha, notes };
        prop_assert_eq!(round::<_, v1::PushHeader>(&value)?, value);
    }

    #[test]
    fn leases_come_back(
        environment in environment(), operation in operation_id(), holder in words(), reason in words(),
        since in time(), expires in time(), gives_way: bool,
    ) {
        let value = Lease { environment, operation, holder, reason, since, expires, gives_way };
        prop_assert_eq!(round::<_, v1::Lease>(&value)?, value);
    }

    #[test]
    fn chain_heads_come_back(sequence: u64, digest in digest()) {
        let value = ChainHead { sequence, digest };
        prop_assert_eq!(round::<_, v1::ChainHead>(&value)?, value);
    }

    #[test]
    fn a_byte_that_flips_on_the_way_never_panics(value in operation(), place: prop::sample::Index, flip in 1_u8..) {
        use prost::Message as _;
        let mut bytes = v1::Operation::from(value).encode_to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        // Whether it still comes in depends on the byte; that it says so in an error otherwise is what counts.
        if let Ok(wire) = v1::Operation::decode(&bytes[..]) {
            drop(Operation::try_from(wire));
        }
    }
}

const ID: &str = "01932f5e-7c00-7abc-8def-0123456789ab";

fn a_request() -> v1::Request {
    v1::Request { operation: ID.to_owned(), ..v1::Request::default() }
}

/// Builds the smallest plan that comes in.
fn a_plan() -> v1::Plan {
    let facts = vec![v1::Fact { subject: "current".to_owned(), value: "leads to release `r2`".to_owned() }];
    let fact = Fact { subject: facts[0].subject.clone(), value: facts[0].value.clone() };
    let time = Some(prost_types::Timestamp { seconds: 5, nanos: 0 });
    v1::Plan {
        request: Some(a_request()),
        host: "web1".to_owned(),
        component: "web".to_owned(),
        environment: "prod".to_owned(),
        operation_type: v1::OperationType::Previous.into(),
        made_at: time,
        candidates: vec!["r1".to_owned()],
        target: Some(v1::TargetFacts { created_at: time, tree: vec![7; 32], ..v1::TargetFacts::default() }),
        timeouts: Some(v1::Timeouts::default()),
        baseline: Some(v1::Health::default()),
        fence: fence(&[fact]).as_bytes().to_vec(),
        facts,
        ..v1::Plan::default()
    }
}

#[test]
fn bad_requests_do_not_come_in() {
    type Change = fn(&mut v1::Request);
    let select = |component: &str, environment: &str| {
        Some(v1::ComponentSelector { component: component.to_owned(), environment: environment.to_owned() })
    };
    let bad: [(&str, Change); 8] = [
        ("operation", |r| r.operation.clear()),
        ("operation", |r| r.operation = "4c8a3a44-56a1-4e47-b5e0-5a0f1f6fbb36".to_owned()),
        ("to", |r| r.to = "a".repeat(129)),
        ("to", |r| r.to = "r1\u{1b}[2J".to_owned()),
        ("reason", |r| r.reason = "a\nACTOR=root".to_owned()),
        ("reason", |r| r.reason = "   ".to_owned()),
        ("reason", |r| r.reason = "\u{202e}desrever".to_owned()),
        ("reason", |r| r.reason = "a".repeat(1_025)),
    ];
    assert!(Request::try_from(a_request()).is_ok());
    for (field, change) in bad {
        let mut wire = a_request();
        change(&mut wire);
        let Err(ConvertError::Wrong { field: told, .. }) = Request::try_from(wire.clone()) else {
            panic!("{wire:?} came in");
        };
        assert_eq!(told, field);
    }
    for (field, selector) in [
        ("component", select("../etc", "prod")),
        ("component", select("-x", "prod")),
        ("environment", select("web", "prod;reboot")),
        ("environment", select("web", "prоd")),
    ] {
        let told = Request::try_from(v1::Request { selector, ..a_request() }).map_err(|error| error.to_string());
        assert!(told.as_ref().is_err_and(|told| told.contains(&format!("field `{field}`"))), "{told:?}");
    }
}

#[test]
fn bad_plans_do_not_come_in() {
    type Change = fn(&mut v1::Plan);
    let bad: [(&str, Change); 22] = [
        ("field `request` is missing", |p| p.request = None),
        ("field `candidates` is missing", |p| p.candidates.clear()),
        ("field `candidates`", |p| p.candidates.push("../../etc".to_owned())),
        ("field `candidates`", |p| p.candidates = vec!["r1".to_owned(); LIST_ITEMS_MAX + 1]),
        ("the plan was edited or damaged", |p| p.facts[0].value = "leads to release `r9`".to_owned()),
        ("the plan was edited or damaged", |p| p.facts.clear()),
        ("the plan was edited or damaged", |p| p.fence[0] ^= 1),
        ("a digest has 32 bytes, not 31", |p| p.fence.truncate(31)),
        ("field `host`", |p| p.host.clear()),
        ("field `component`", |p| p.component = "a/b".to_owned()),
        ("field `environment`", |p| p.environment = "a b".to_owned()),
        ("field `operation_type` is missing", |p| p.operation_type = 0),
        ("field `operation_type`: 99", |p| p.operation_type = 99),
        ("field `made_at` is missing", |p| p.made_at = None),
        ("field `made_at`", |p| p.made_at = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })),
        ("field `made_at`", |p| p.made_at = Some(prost_types::Timestamp { seconds: 0, nanos: -1 })),
        ("field `from`", |p| p.from = ".hidden".to_owned()),
        ("field `target` is missing", |p| p.target = None),
        ("field `units`", |p| p.units.push("reboot.target".to_owned())),
        ("field `timeouts` is missing", |p| p.timeouts = None),
        ("field `baseline` is missing", |p| p.baseline = None),
        ("field `takes_over`", |p| p.takes_over = "x".to_owned()),
    ];
    assert!(Plan::try_from(a_plan()).is_ok());
    for (expected, change) in bad {
        let mut wire = a_plan();
        change(&mut wire);
        let told = Plan::try_from(wire).map_err(|error| error.to_string());
        assert!(told.as_ref().is_err_and(|told| told.contains(expected)), "{expected}: {told:?}");
    }
}

#[test]
fn messages_without_their_choice_do_not_come_in() {
    assert_eq!(Phase::try_from(v1::Phase::default()), Err(ConvertError::Missing("phase")));
    assert_eq!(Outcome::try_from(v1::Outcome::default()), Err(ConvertError::Missing("outcome")));
    assert_eq!(Effect::try_from(v1::Effect::default()), Err(ConvertError::Missing("effect")));
    assert_eq!(Integrity::try_from(v1::Integrity::default()), Err(ConvertError::Missing("integrity")));
    assert_eq!(Unfit::try_from(v1::Unfit::default()), Err(ConvertError::Missing("why")));
    let unit = v1::UnitState { name: "web.service".to_owned(), ..v1::UnitState::default() };
    assert_eq!(UnitState::try_from(unit), Err(ConvertError::Missing("load")));
}

#[test]
fn bad_labels_and_entries_do_not_come_in() {
    let label = v1::PushHeader { release: "2.5.0".to_owned(), ..v1::PushHeader::default() };
    assert!(Label::try_from(label.clone()).is_ok());
    for (field, wrong) in [
        ("release", v1::PushHeader { release: "../x".to_owned(), ..label.clone() }),
        ("release", v1::PushHeader { release: String::new(), ..label.clone() }),
        ("version", v1::PushHeader { version: "a b".to_owned(), ..label.clone() }),
        ("git_sha", v1::PushHeader { git_sha: "master".to_owned(), ..label.clone() }),
        ("notes", v1::PushHeader { notes: "a\nb".to_owned(), ..label }),
    ] {
        let told = Label::try_from(wrong.clone());
        assert!(matches!(&told, Err(ConvertError::Wrong { field: told, .. }) if *told == field), "{wrong:?}: {told:?}");
    }
    assert_eq!(Offered::try_from(v1::OfferedEntry::default()), Err(ConvertError::Missing("kind")));
    let file = v1::OfferedFile { content: vec![1; 31], ..v1::OfferedFile::default() };
    let wire = v1::OfferedEntry { kind: Some(v1::offered_entry::Kind::File(file)), ..v1::OfferedEntry::default() };
    assert!(Offered::try_from(wire).is_err());
}
