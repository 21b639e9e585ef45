//! Strikes a real agent before the system calls of a push, by death and by power cut, and judges what the next one has.

use std::path::Path;
use std::process::Command;

use rollback_tests::bed::{Bed, LIMIT, Places, agent_program};
use rollback_tests::images::{self, FileSystem, Image, ImageSpec};
use rollback_tests::skip::{note, skipped};
use rollback_tests::sweep::{Action, Aim, Call, Report, Trace};
use serde_json::Value;

use super::{dist, push, releases, same};

/// Points of one sweep unless all are asked for, besides those at which something gets its name.
const POINTS_MAX: usize = 24;

/// The numbers of the calls that are struck: all with `ROLLBACK_SWEEP=full`, else every rename and some others, evenly.
fn points(calls: &[Call]) -> Vec<usize> {
    let full = std::env::var("ROLLBACK_SWEEP").is_ok_and(|word| word == "full");
    let step = if full { 1 } else { calls.len().div_ceil(POINTS_MAX).max(1) };
    let chosen = |(nth, call): &(usize, &Call)| nth % step == 0 || call.name.starts_with("rename");
    (1..).zip(calls).filter(chosen).map(|(nth, _)| nth).collect()
}

/// Pushes to an agent that is struck, and says what is wrong with what the next one has.
fn strike(bed: &Bed, source: &Path, aim: Aim, cuts: bool) -> (Report, Result<(), String>) {
    bed.reset();
    let agent = bed.start();
    let trace = Trace::attach(agent.pid(), aim).unwrap();
    let answered = push(bed, source, &["--version", "1.0"]).status.success();
    let report = if answered { trace.finish() } else { trace.wait(LIMIT) }.unwrap();
    drop(agent);
    bed.end_services();
    if cuts {
        bed.remount();
    }
    let agent = match bed.try_start() {
        Ok(agent) => agent,
        Err(why) => return (report, Err(format!("the next agent does not serve: {why}"))),
    };
    let verdict = whole_or_nothing(bed, source, answered);
    drop(agent);
    bed.end_services();
    (report, verdict)
}

fn whole_or_nothing(bed: &Bed, source: &Path, answered: bool) -> Result<(), String> {
    let found = releases(bed);
    let is_there = found.iter().any(|name| name == "1.0");
    if let Some(stray) =
        found.iter().find(|name| !["r1", "r2", "r3", "1.0"].contains(&name.as_str()) && !name.starts_with(".push-"))
    {
        return Err(format!("`{stray}` has been left"));
    }
    if answered && !is_there {
        return Err("it was answered and is not there".to_owned());
    }
    let check = |when: &str| {
        if !same(source, &bed.app().join("releases/1.0")) {
            return Err(format!("{when}: its files are not those that were pushed"));
        }
        let told = bed.rbctl(&["verify", "1.0", "-o", "json"]);
        let told: Value = serde_json::from_slice(&told.stdout).map_err(|error| error.to_string())?;
        let (intact, manifest) = (&told["hosts"][0]["intact"], &told["hosts"][0]["release"]["manifest"]);
        if *intact == true && manifest["origin"] == "pushed" && manifest["version"] == "1.0" {
            Ok(())
        } else {
            Err(format!("{when}: {told}"))
        }
    };
    if is_there {
        check("before it is pushed again")?;
    }
    let again = push(bed, source, &["--version", "1.0"]);
    if !again.status.success() {
        return Err(format!("pushed again: {}", String::from_utf8_lossy(&again.stdout)));
    }
    check("pushed again")?;
    if let Some(left) = releases(bed).iter().find(|name| name.starts_with(".push-")) {
        return Err(format!("pushed again: `{left}` has been left"));
    }
    if bed.audit()? { Ok(()) } else { Err("the chain of the history is broken".to_owned()) }
}

/// Strikes a push before its calls; every failure is told, not only the first.
fn sweep_all(bed: &Bed, action: &Action) {
    let source = dist(bed, "one", 3, 1);
    let cuts = matches!(action, Action::PowerCut(_));
    let (counted, whole) = strike(bed, &source, Aim::count(&bed.dirs()), false);
    assert_eq!(whole, Ok(()));
    let (mut failures, mut struck) = (Vec::new(), 0);
    for nth in points(&counted.calls) {
        let (report, verdict) = strike(bed, &source, Aim::strike(&bed.dirs(), nth, action.clone()), cuts);
        struck += usize::from(report.struck);
        let call = report.calls.last().map(ToString::to_string).unwrap_or_default();
        failures.extend(verdict.err().map(|wrong| format!("before call {nth} ({call}): {wrong}")));
    }
    note(&format!(
        "a push under {action:?}: {} calls, {struck} struck, {} violations",
        counted.calls.len(),
        failures.len()
    ));
    assert!(struck > 0, "nothing was struck");
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_push_whose_agent_is_killed_before_any_call_is_whole_or_nothing() {
    let name = "a_push_whose_agent_is_killed_before_any_call_is_whole_or_nothing";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    if let Err(why) = ptrace_available() {
        return skipped(name, &why);
    }
    sweep_all(&Bed::new(program, Places::Plain), &Action::Kill);
}

#[test]
fn a_push_whose_host_loses_its_power_before_any_call_is_whole_or_nothing() {
    let name = "a_push_whose_host_loses_its_power_before_any_call_is_whole_or_nothing";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    if let Err(why) = ptrace_available().and_then(|()| images::available()) {
        return skipped(name, &why);
    }
    images::privately(move || {
        for file_system in [FileSystem::Ext4, FileSystem::Xfs] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let spec = ImageSpec { file_system, size_mib: 400, inodes: None };
            let image = Image::create(dir.path(), "disk", spec).unwrap();
            let bed = Bed::new(program.clone(), Places::Images(image, None));
            let action = Action::PowerCut(bed.mounts());
            sweep_all(&bed, &action);
        }
    });
}

/// Whether programs can be traced here.
fn ptrace_available() -> Result<(), String> {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let traced = Trace::attach(i32::try_from(child.id()).unwrap(), Aim::count(&[Path::new("/nowhere")]));
    let traced = traced.and_then(Trace::finish).map(drop).map_err(|error| format!("needs ptrace: {error}"));
    drop(child.kill());
    drop(child.wait());
    traced
}
