//! P6: the agent at rest, from its start on, beside other daemons that watch a host.
#![expect(clippy::disallowed_methods, reason = "what a process uses is read from /proc")]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns};
use crate::lab::{Component, Lab};
use crate::options::Options;

const AGENT: &str = "rb-agent.service";
const WEB: Component = Component { name: "web", port: 8080, files: 100, probed: true };
/// What else runs on hosts, by its package and the unit that runs it here.
const PEERS: [(&str, &str, &str); 2] = [
    ("prometheus-node-exporter", "/usr/bin/prometheus-node-exporter", "/usr/bin/prometheus-node-exporter"),
    ("monit", "/usr/bin/monit", "/usr/bin/monit -I -c /etc/figures/monitrc"),
];
/// How long a daemon has to come to rest before it is looked at.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let lab = Lab::up(&[WEB])?;
    lab.host().write("/etc/figures/monitrc", "set daemon 30\nset log syslog\n", 0o600)?;
    let mut peers = Vec::new();
    for (name, program, command) in PEERS {
        if !std::path::Path::new(program).exists() {
            report.skip(&format!("P6 against {name}"), format!("there is no `{program}`: `apt-get install {name}`"));
            continue;
        }
        let unit = format!("figures-{name}.service");
        lab.host().write(&format!("/etc/systemd/system/{unit}"), format!("[Service]\nExecStart={command}\n"), 0o644)?;
        peers.push((name, unit));
    }
    lab.host().sh("systemctl daemon-reload")?;
    starts(&lab, options, report)?;
    rest(&lab, options, report, &peers)?;
    grows(&lab, options, report)
}

/// From the start of the process until systemd is told that it serves.
fn starts(lab: &Lab, options: &Options, report: &mut Report) -> Result<(), Fault> {
    let [ours] = in_turns(
        options.rounds.into(),
        [&mut || {
            lab.host().sh(&format!("systemctl restart {AGENT}"))?;
            let at = |property: &str| -> Result<f64, Fault> {
                let said = lab.host().sh(&format!("systemctl show -P {property} {AGENT}"))?;
                Ok(said.trim().parse::<f64>()? / 1_000.0)
            };
            Ok(at("ActiveEnterTimestampMonotonic")? - at("ExecMainStartTimestampMonotonic")?)
        }],
    )?;
    let what = "agent, process start to serving".to_owned();
    report.rows.push(Row { figure: "P6", what, unit: "ms", ours, floor: None, goal: Goal::AtMost(50.0) });
    Ok(())
}

fn rest(lab: &Lab, options: &Options, report: &mut Report, peers: &[(&str, String)]) -> Result<(), Fault> {
    for (_, unit) in peers {
        lab.host().sh(&format!("systemctl start {unit}"))?;
    }
    let agent = lab.host().main_pid(AGENT)?;
    sleep(SETTLE);
    let before = Use::of(agent)?;
    sleep(Duration::from_secs(options.rest));
    let after = Use::of(agent)?;
    let mut add = |what: &str, unit, value, goal| {
        let what = format!("agent at rest, {what}");
        report.rows.push(Row { figure: "P6", what, unit, ours: Samples::one(value), floor: None, goal });
    };
    add(&format!("CPU over {} s", options.rest), "s", after.cpu_s - before.cpu_s, Goal::AtMost(0.0));
    let switches = after.switches - before.switches;
    add(&format!("context switches over {} s", options.rest), "", switches, Goal::AtMost(4.0));
    let ours = Samples::one(pss_mib(agent)?);
    for (name, unit) in peers {
        let floor = Samples::one(pss_mib(lab.host().main_pid(unit)?)?);
        let goal = if *name == "monit" { Goal::None } else { Goal::Ratio(0.4) };
        let (what, floor) = ("agent at rest, PSS".to_owned(), Some(((*name).to_owned(), floor)));
        report.rows.push(Row { figure: "P6", what, unit: "MiB", ours: ours.clone(), floor, goal });
    }
    if peers.is_empty() {
        let what = "agent at rest, PSS".to_owned();
        report.rows.push(Row { figure: "P6", what, unit: "MiB", ours, floor: None, goal: Goal::None });
    }
    Ok(())
}

/// Whether the agent's memory grows with what it has done.
fn grows(lab: &Lab, options: &Options, report: &mut Report) -> Result<(), Fault> {
    let agent = lab.host().main_pid(AGENT)?;
    let mut client = lab.client()?;
    // A first few, so that what is needed for any rollback is there before.
    for _ in 0..5 {
        lab.roll_back(&mut client, "web", "r1")?;
        lab.roll_back(&mut client, "web", "r2")?;
    }
    let before = pss_mib(agent)?;
    for _ in 0..options.rollbacks.div_ceil(2) {
        lab.roll_back(&mut client, "web", "r1")?;
        lab.roll_back(&mut client, "web", "r2")?;
    }
    let (ours, floor) = (Samples::one(pss_mib(agent)?), Some(("before".to_owned(), Samples::one(before))));
    let what = format!("PSS after {} rollbacks", options.rollbacks);
    report.rows.push(Row { figure: "P6", what, unit: "MiB", ours, floor, goal: Goal::Ratio(1.1) });
    Ok(())
}

/// What a process has used so far.
pub(crate) struct Use {
    pub(crate) cpu_s: f64,
    switches: f64,
}

impl Use {
    pub(crate) fn of(pid: i32) -> Result<Self, Fault> {
        let (mut cpu_ns, mut switches) = (0.0, 0.0);
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            // Nanoseconds on a processor, nanoseconds of waiting, turns.
            let ran = fs::read_to_string(thread.join("schedstat"))?;
            cpu_ns += ran.split(' ').next().unwrap_or_default().parse::<f64>()?;
            let status = fs::read_to_string(thread.join("status"))?;
            for line in status.lines().filter(|line| line.contains("ctxt_switches:")) {
                switches += line.rsplit('\t').next().unwrap_or_default().parse::<f64>()?;
            }
        }
        Ok(Self { cpu_s: cpu_ns / 1e9, switches })
    }
}

fn pss_mib(pid: i32) -> Result<f64, Fault> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(pss.map(|kib: f64| kib / 1024.0).ok_or("the kernel tells no PSS")?)
}
