//! Strikes a real agent before the system calls of a rollback, by death and by power cut, and judges what the next finds.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::disallowed_methods, reason = "this suite runs real agents on real disks")]
#![expect(
    clippy::unwrap_used,
    reason = "the helpers belong to the tests, and a failed step of a test is a failed test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use rollback::wire::v1;
use rollback_tests::bed::{Bed, LIMIT, Places, RUNS, agent_program};
use rollback_tests::images::{self, Image, ImageSpec, privately};
use rollback_tests::skip::{note, skipped};
use rollback_tests::sweep::{Action, Aim, Call, Point, Report, Trace};
use rollback_tests::wait::{timed, wait_until};

/// The promise: so long after an agent starts, its service is up again.
const UP_LIMIT: Duration = Duration::from_secs(10);
/// Points of one sweep unless all are asked for, so that the suite ends within minutes on two cores.
const DEATHS_MAX: usize = 24;
/// As above; a power cut takes longer than a death.
const CUTS_MAX: usize = 10;

/// The three ways to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Standard,
    Targeted,
    Emergency,
}

impl Way {
    const ALL: [Self; 3] = [Self::Standard, Self::Targeted, Self::Emergency];

    /// The release that it leads to.
    fn target(self) -> &'static str {
        match self {
            Self::Standard | Self::Emergency => "r2",
            Self::Targeted => "r1",
        }
    }

    /// A fresh request.
    fn request(self) -> v1::Request {
        v1::Request {
            operation: uuid::Uuid::now_v7().to_string(),
            selector: None,
            to: if self == Self::Targeted { "r1".to_owned() } else { String::new() },
            emergency: self == Self::Emergency,
            force: false,
            reason: "the sweep asks for it".to_owned(),
            deploy: None,
        }
    }
}

/// The numbers of the calls that are struck, of so many: all when `ROLLBACK_SWEEP=full`, else about `max`, evenly.
fn points(calls: usize, max: usize) -> Vec<usize> {
    let full = std::env::var("ROLLBACK_SWEEP").is_ok_and(|word| word == "full");
    let step = if full { 1 } else { calls.div_ceil(max).max(1) };
    (1..=calls).step_by(step).collect()
}

/// What a sweep saw in all.
#[derive(Default)]
struct Tally {
    struck: usize,
    not_reached: usize,
    failures: Vec<String>,
    slowest: Duration,
}

/// Counts the calls of one whole operation.
fn count(bed: &Bed, way: Way) -> Vec<Call> {
    bed.reset();
    let agent = bed.start();
    let trace = Trace::attach(agent.pid(), Aim::count(&bed.dirs())).unwrap();
    let result = bed.roll_back(&way.request());
    let calls = trace.finish().unwrap().calls;
    assert_eq!(result, Ok(v1::ResultWord::Done), "{}", bed.log());
    drop(agent);
    bed.end_services();
    calls
}

/// Strikes every chosen call of one way; `after` brings the disks back.
fn sweep(bed: &Bed, way: Way, action: &Action, max: usize) -> (usize, Tally) {
    let calls = count(bed, way);
    if std::env::var_os("ROLLBACK_SWEEP_LIST").is_some() {
        for (call, nth) in calls.iter().zip(1..) {
            note(&format!("  {nth}: {call}"));
        }
    }
    let mut tally = Tally::default();
    for nth in points(calls.len(), max) {
        strike(bed, way, action, nth, &mut tally);
    }
    (calls.len(), tally)
}

fn strike(bed: &Bed, way: Way, action: &Action, nth: usize, tally: &mut Tally) {
    bed.reset();
    let agent = bed.start();
    let trace = Trace::attach(agent.pid(), Aim::strike(&bed.dirs(), nth, action.clone())).unwrap();
    let request = way.request();
    let answered = bed.roll_back(&request);
    let report = if answered.is_ok() { trace.finish() } else { trace.wait(LIMIT) }.unwrap();
    drop(agent);
    if report.struck {
        tally.struck += 1;
    } else {
        tally.not_reached += 1;
    }
    if matches!(action, Action::PowerCut(_)) {
        // A host that loses its power loses its services with it.
        bed.end_services();
        bed.remount();
    }
    let (verdict, took) = judge(bed, (way, intended(&report, bed.has_images())), &request, answered.ok());
    tally.slowest = tally.slowest.max(took);
    if let Err(wrong) = verdict {
        let call = report.calls.last().map(ToString::to_string).unwrap_or_default();
        tally.failures.push(format!("{way:?}, struck={} before call {nth} ({call}): {wrong}", report.struck));
        if std::env::var_os("ROLLBACK_SWEEP_LIST").is_some() {
            note(&format!("{way:?} {nth} ({call}): {wrong}\n{}", bed.log()));
        }
    }
    bed.end_services();
}

/// Whether the intent was safe when the agent was struck: then the operation has to be there afterwards.
fn intended(report: &Report, cut: bool) -> bool {
    let done = &report.calls[..report.calls.len().saturating_sub(usize::from(report.struck))];
    let flushed = if cut { "fdatasync" } else { "pwrite64" };
    done.iter().any(|call| call.name == flushed && call.path.ends_with("intents"))
}

/// Starts the next agent, and says what is wrong with what it made of the host, and how long it took to serve.
///
/// `intended` tells that the operation has to be there.
fn judge(
    bed: &Bed,
    (way, intended): (Way, bool),
    request: &v1::Request,
    answered: Option<v1::ResultWord>,
) -> (Result<(), String>, Duration) {
    let (agent, took) = timed(|| bed.try_start());
    let agent = match agent {
        Ok(agent) => agent,
        Err(why) => return (Err(format!("the next agent does not serve: {why}\n{}", bed.log())), took),
    };
    let verdict = invariants(bed, (way, intended), request, answered)
        .and_then(|()| if took > UP_LIMIT { Err(format!("it took {took:?} to serve")) } else { Ok(()) });
    drop(agent);
    (verdict, took)
}

fn invariants(
    bed: &Bed,
    (way, intended): (Way, bool),
    request: &v1::Request,
    answered: Option<v1::ResultWord>,
) -> Result<(), String> {
    let current = bed.current()?;
    if ![RUNS, way.target()].contains(&current.as_str()) {
        return Err(format!("`current` leads to {current}"));
    }
    let lines = bed.history(&request.operation)?;
    let expected = match lines.as_slice() {
        [] if intended => return Err("the intent was safe, and the history does not have the operation".to_owned()),
        [] if answered.is_some() => return Err("the operation was answered and is not in the history".to_owned()),
        [] => RUNS,
        [v1::ResultWord::Done] => way.target(),
        [v1::ResultWord::PutBack] => RUNS,
        other => return Err(format!("the history has {other:?}, `current` leads to {current}")),
    };
    if current != expected {
        return Err(format!("the history has {lines:?}, `current` leads to {current}"));
    }
    if lines == [v1::ResultWord::PutBack] {
        return Err("a good target was put back".to_owned());
    }
    let before = bed.unit()?;
    if !bed.audit()? {
        return Err("the chain of the history is broken".to_owned());
    }
    // Once more the same: whoever lost the answer asks again.
    let again = bed.roll_back(request)?;
    let (now, after) = (bed.current()?, bed.unit()?);
    if again != v1::ResultWord::Done || now != way.target() {
        return Err(format!("asked again: {again:?}, and `current` leads to {now}"));
    }
    if !lines.is_empty() && before != after {
        return Err(format!("asked again: the unit was touched: {before:?}, {after:?}"));
    }
    match bed.history(&request.operation)?.as_slice() {
        [v1::ResultWord::Done] => Ok(()),
        other => Err(format!("asked again: the history has {other:?}")),
    }
}

/// Whether the test can run; reports it when it cannot.
fn possible(name: &str) -> Option<PathBuf> {
    let program = agent_program();
    if program.is_none() {
        skipped(name, "needs `rb-agent`, which `cargo build` makes");
    }
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let refused = Trace::attach(i32::try_from(child.id()).unwrap(), Aim::count(&[Path::new("/nowhere")]))
        .and_then(Trace::finish)
        .err();
    drop(child.kill());
    drop(child.wait());
    if let Some(error) = refused {
        skipped(name, &format!("needs ptrace: {error}"));
        return None;
    }
    program
}

fn verdict(name: &str, tallies: Vec<(String, usize, Tally, Duration)>) {
    let mut failures = Vec::new();
    for (what, calls, tally, took) in tallies {
        note(&format!(
            "{name}: {what}: {calls} calls, {} struck, {} not reached, {} violations, slowest start {:.1?}, in {took:.1?}",
            tally.struck,
            tally.not_reached,
            tally.failures.len(),
            tally.slowest
        ));
        failures.extend(tally.failures.into_iter().map(|failure| format!("{what}: {failure}")));
    }
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn an_agent_killed_before_any_call_leaves_old_or_new_and_the_next_one_converges() {
    let name = "an_agent_killed_before_any_call_leaves_old_or_new_and_the_next_one_converges";
    let Some(program) = possible(name) else { return };
    let bed = Bed::new(program, Places::Plain);
    let mut tallies = Vec::new();
    for way in Way::ALL {
        let ((calls, tally), took) = timed(|| sweep(&bed, way, &Action::Kill, DEATHS_MAX));
        tallies.push((format!("{way:?}"), calls, tally, took));
    }
    verdict(name, tallies);
}

/// Strikes a rollback before call `first`, leaves the next agent to `aim`, and gives what that one did until it served.
fn strike_twice(bed: &Bed, first: &Point, aim: Aim) -> (v1::Request, Report) {
    bed.reset();
    let agent = bed.start();
    let trace = Trace::attach(agent.pid(), Aim::strike(&bed.dirs(), first.clone(), Action::Kill)).unwrap();
    let request = Way::Standard.request();
    bed.roll_back(&request).unwrap_err();
    assert!(trace.wait(LIMIT).unwrap().struck);
    drop(agent);
    // Its first call on the disk comes long after its program was loaded, which is when it is attached to.
    let agent = bed.launch();
    let trace = Trace::attach(agent.pid(), aim).unwrap();
    wait_until(LIMIT, "the next agent to serve or to die", || trace.is_over() || bed.serves()).unwrap();
    (request, trace.finish().unwrap())
}

#[test]
fn an_agent_killed_again_while_it_recovers_leaves_the_rest_to_the_next() {
    let name = "an_agent_killed_again_while_it_recovers_leaves_the_rest_to_the_next";
    let Some(program) = possible(name) else { return };
    let bed = Bed::new(program, Places::Plain);
    let calls = count(&bed, Way::Standard);
    let mut tallies = Vec::new();
    // Once before the switch, once before the outcome is on the disk.
    for (name, end) in [("renameat2", "current"), ("fsync", "history.db-wal")] {
        let first = &Point::like(&calls, last(&calls, name, end));
        let mut tally = Tally::default();
        let recovering = strike_twice(&bed, first, Aim::count(&bed.dirs())).1.calls;
        let ((), took) = timed(|| {
            for nth in points(recovering.len(), DEATHS_MAX) {
                let (request, report) = strike_twice(&bed, first, Aim::strike(&bed.dirs(), nth, Action::Kill));
                if report.struck {
                    tally.struck += 1;
                } else {
                    tally.not_reached += 1;
                }
                // The first agent had made its intent safe, whatever the second came to.
                let (verdict, took) = judge(&bed, (Way::Standard, true), &request, None);
                tally.slowest = tally.slowest.max(took);
                if let Err(wrong) = verdict {
                    let call = report.calls.last().map(ToString::to_string).unwrap_or_default();
                    tally.failures.push(format!("before call {nth} ({call}): {wrong}"));
                }
                bed.end_services();
            }
        });
        tallies.push((format!("killed at {name} {end}, then again"), recovering.len(), tally, took));
    }
    verdict(name, tallies);
}

/// Runs `test` on ext4 and on XFS, with the state beside the releases and on another disk.
fn on_all_disks(name: &str, layouts: &[bool], mut test: impl FnMut(&Bed, &str) + Send) {
    let Some(program) = possible(name) else { return };
    if let Err(reason) = images::available() {
        return skipped(name, &reason);
    }
    privately(move || {
        for spec in [ImageSpec::EXT4, ImageSpec::XFS] {
            for apart in layouts {
                let dir = tempfile::tempdir_in("/var/tmp").unwrap();
                let first = Image::create(dir.path(), "first", spec).unwrap();
                let second = apart.then(|| Image::create(dir.path(), "second", spec).unwrap());
                let bed = Bed::new(program.clone(), Places::Images(first, second));
                let layout = if *apart { "state apart" } else { "one disk" };
                test(&bed, &format!("{:?}, {layout}", spec.file_system));
            }
        }
    });
}

#[test]
fn a_power_cut_before_any_call_leaves_old_or_new_and_the_next_agent_converges() {
    let name = "a_power_cut_before_any_call_leaves_old_or_new_and_the_next_agent_converges";
    let mut tallies = Vec::new();
    on_all_disks(name, &[false, true], |bed, what| {
        let cut = Action::PowerCut(bed.mounts());
        for way in Way::ALL {
            let ((calls, tally), took) = timed(|| sweep(bed, way, &cut, CUTS_MAX));
            tallies.push((format!("{what}, {way:?}"), calls, tally, took));
        }
    });
    verdict(name, tallies);
}

/// Ends an operation, then the power; `lie` is a call that is not made and said to have succeeded.
fn done_then_cut(bed: &Bed, lie: Option<Point>) -> Result<(), String> {
    bed.reset();
    let agent = bed.start();
    let lies = lie.is_some();
    let aim = match lie {
        Some(point) => Aim::strike(&bed.dirs(), point, Action::Inject(Errno::UnknownErrno)),
        None => Aim::count(&bed.dirs()),
    };
    let trace = Trace::attach(agent.pid(), aim).unwrap();
    let request = Way::Standard.request();
    let answered = bed.roll_back(&request);
    bed.cut_power();
    let report = trace.finish().unwrap();
    drop(agent);
    bed.end_services();
    bed.remount();
    assert_eq!(answered, Ok(v1::ResultWord::Done));
    assert_eq!(report.struck, lies, "the call to lie about was not met: {:?}", report.calls);
    let verdict = judge(bed, (Way::Standard, true), &request, answered.ok()).0;
    bed.end_services();
    verdict
}

#[test]
fn the_sweep_catches_a_switch_that_is_not_flushed() {
    let name = "the_sweep_catches_a_switch_that_is_not_flushed";
    // On one disk the flush of the history hides the bug.
    on_all_disks(name, &[true], |bed, what| {
        let calls = count(bed, Way::Standard);
        let flushes: BTreeSet<usize> = calls
            .iter()
            .zip(1..)
            .filter(|(call, _)| call.name == "fsync" && call.path.ends_with("app"))
            .map(|(_, nth)| nth)
            .collect();
        assert!(!flushes.is_empty(), "{what}: {calls:?}");
        assert_eq!(done_then_cut(bed, None), Ok(()), "{what}");
        // Which of them comes after the switch is for the sweep to find.
        let verdicts: Vec<_> = flushes.iter().map(|nth| done_then_cut(bed, Some(Point::like(&calls, *nth)))).collect();
        let caught =
            |verdict: &Result<(), String>| verdict.as_ref().is_err_and(|wrong| wrong.contains("`current` leads to r3"));
        assert!(verdicts.iter().any(caught), "{what}: the forgotten flush was not caught: {verdicts:?}");
    });
}

/// Where a rollback of one disk is struck: the fault's number, the call that is not made, and what the next agent must
/// find, as the failure model says.
struct Fault {
    number: &'static str,
    /// Finds the call among those of a whole rollback, counted from 1.
    point: fn(&[Call]) -> usize,
    /// Whether the operation was accepted by then.
    accepted: bool,
}

fn first(calls: &[Call], name: &str, end: &str) -> usize {
    calls.iter().position(|call| call.name == name && call.path.ends_with(end)).unwrap() + 1
}

fn last(calls: &[Call], name: &str, end: &str) -> usize {
    calls.iter().rposition(|call| call.name == name && call.path.ends_with(end)).unwrap() + 1
}

const FAULTS: [Fault; 7] = [
    // Before the intent is durable.
    Fault { number: "F01", point: |calls| first(calls, "pwrite64", "intents"), accepted: false },
    // Right after it.
    Fault { number: "F02", point: |calls| first(calls, "fdatasync", "intents") + 1, accepted: true },
    // After the stop: what is written before the switch begins.
    Fault { number: "F03", point: |calls| last(calls, "renameat2", "current") - 1, accepted: true },
    // Before the exchange.
    Fault { number: "F04", point: |calls| last(calls, "renameat2", "current"), accepted: true },
    // Between the exchange and the flush of its directory.
    Fault { number: "F05", point: |calls| last(calls, "fsync", "app"), accepted: true },
    // After the flush, before the start.
    Fault { number: "F06", point: |calls| last(calls, "fsync", "app") + 1, accepted: true },
    // After the verification, before the outcome is on the disk.
    Fault { number: "F08", point: |calls| last(calls, "fsync", "history.db-wal"), accepted: true },
];

/// What a switch has left beside `current`, besides the links that are prepared for the next one.
fn leftovers(bed: &Bed) -> Vec<std::ffi::OsString> {
    let known = ["current", "releases", ".current.r1", ".current.r2", ".current.r3"];
    let names = std::fs::read_dir(bed.app()).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| !known.iter().any(|known| name == known)).collect()
}

/// Strikes the faults of the table; the calls of a program with threads vary a little, so each is struck where it is met.
fn strike_faults(bed: &Bed, what: &str, action: &Action) {
    let calls = count(bed, Way::Standard);
    for fault in &FAULTS {
        let nth = (fault.point)(&calls);
        let (call, point) = (&calls[nth - 1], Point::like(&calls, nth));
        bed.reset();
        let agent = bed.start();
        let trace = Trace::attach(agent.pid(), Aim::strike(&bed.dirs(), point, action.clone())).unwrap();
        let request = Way::Standard.request();
        bed.roll_back(&request).unwrap_err();
        let report = trace.wait(LIMIT).unwrap();
        assert!(report.struck, "{}, {what}: {call} was not met", fault.number);
        drop(agent);
        if matches!(action, Action::PowerCut(_)) {
            bed.end_services();
            bed.remount();
        }
        let why = |wrong: String| format!("{}, {what}, before {call}: {wrong}\n{}", fault.number, bed.log());
        let agent = bed.try_start().map_err(why).unwrap();
        let lines = bed.history(&request.operation).unwrap();
        if fault.accepted && intended(&report, bed.has_images()) {
            assert_eq!(lines, [v1::ResultWord::Done], "{}", why("it was finished without anybody".to_owned()));
            let operation = bed.show(&request.operation).unwrap();
            assert!(operation.recoveries <= 1, "{}", why(format!("recovered {} times", operation.recoveries)));
            assert_eq!(bed.current().as_deref(), Ok(Way::Standard.target()));
        } else {
            assert_eq!(lines, [], "{}", why("nothing had begun".to_owned()));
            assert_eq!(bed.current().as_deref(), Ok(RUNS));
        }
        assert!(leftovers(bed).is_empty(), "{}", why(format!("{:?} was left behind", leftovers(bed))));
        drop(agent);
        let (verdict, _) = judge(bed, (Way::Standard, fault.accepted && !lines.is_empty()), &request, None);
        verdict.map_err(why).unwrap();
        bed.end_services();
    }
}

#[test]
fn f01_to_f06_and_f08_killed_at_each_step_it_is_finished_once_without_anybody() {
    let name = "f01_to_f06_and_f08_killed_at_each_step_it_is_finished_once_without_anybody";
    let Some(program) = possible(name) else { return };
    strike_faults(&Bed::new(program, Places::Plain), "killed", &Action::Kill);
}

#[test]
fn f11_without_power_at_each_step_it_is_finished_once_without_anybody() {
    let name = "f11_without_power_at_each_step_it_is_finished_once_without_anybody";
    on_all_disks(name, &[true], |bed, what| strike_faults(bed, what, &Action::PowerCut(bed.mounts())));
}

#[test]
fn f10_an_agent_that_is_killed_at_every_recovery_is_stopped_by_its_count() {
    let name = "f10_an_agent_that_is_killed_at_every_recovery_is_stopped_by_its_count";
    let Some(program) = possible(name) else { return };
    let bed = Bed::new(program, Places::Plain);
    let calls = count(&bed, Way::Standard);
    let request = Way::Standard.request();
    bed.reset();
    let agent = bed.start();
    let switch = Point::like(&calls, last(&calls, "renameat2", "current"));
    let aim = Aim::strike(&bed.dirs(), switch, Action::Kill);
    let trace = Trace::attach(agent.pid(), aim).unwrap();
    bed.roll_back(&request).unwrap_err();
    assert!(trace.wait(LIMIT).unwrap().struck);
    drop(agent);
    // Each next agent is killed as soon as it has counted its recovery, which is the first flush of the intents.
    let mut deaths = 0;
    for _ in 0..40 {
        let agent = bed.launch();
        let intents = [bed.state().join("intents")];
        let trace = Trace::attach(agent.pid(), Aim::strike(&intents, 3, Action::Kill)).unwrap();
        wait_until(LIMIT, "the next agent to serve or to die", || trace.is_over() || bed.serves()).unwrap();
        let report = trace.finish().unwrap();
        drop(agent);
        if !report.struck {
            break;
        }
        deaths += 1;
    }
    assert!((20..40).contains(&deaths), "{deaths} deaths");
    let agent = bed.start();
    assert_eq!(bed.history(&request.operation), Ok(vec![v1::ResultWord::NeedsOperator]), "{}", bed.log());
    assert!(bed.current().is_ok(), "the link is in a state that can be read");
    drop(agent);
}

#[test]
fn the_sweep_catches_an_outcome_that_is_written_before_its_switch() {
    let name = "the_sweep_catches_an_outcome_that_is_written_before_its_switch";
    on_all_disks(name, &[true], |bed, what| {
        let calls = count(bed, Way::Standard);
        let switch = Point::like(&calls, last(&calls, "renameat2", "current"));
        // The switch is not made and said to have been, so the outcome comes before it.
        let verdict = done_then_cut(bed, Some(switch));
        let caught =
            verdict.as_ref().is_err_and(|wrong| wrong.contains("Done") && wrong.contains("`current` leads to r3"));
        assert!(caught, "{what}: the early outcome was not caught: {verdict:?}");
    });
}
