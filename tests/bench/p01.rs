//! P1: a rollback by the agent against bare calls to systemd and against the shell's one-liner; and its flushes.
#![expect(clippy::disallowed_methods, reason = "the one-liner's orders go through a pipe of the host")]

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ChildStdout;
use std::thread::sleep;
use std::time::Duration;

use rollback_tests::sweep::{Aim, Trace};

use crate::bus::Bus;
use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns, timed};
use crate::lab::{Component, Lab};
use crate::options::Options;

/// The pause before each switch, in which the kernel and systemd come to rest.
pub(crate) const IDLE: Duration = Duration::from_millis(150);
/// Switches per round: rounds are few where a sample takes seconds, here it takes milliseconds and the 99th percentile
/// counts as well.
const SWITCHES_PER_ROUND: usize = 20;
/// Calls that make a program wait for the disk.
const FLUSHES: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "syncfs"];

const WEB: Component = Component { name: "web", port: 8080, files: 0, probed: false };

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let lab = Lab::up(&[WEB])?;
    let links = [lab.outside("/srv/web/current")?, lab.outside("/srv/web/.next")?];
    let mut bus = lab.runtime.block_on(Bus::connect(&lab))?;
    let mut shell = Shell::open(&lab)?;
    let mut client = lab.client()?;
    lab.roll_back(&mut client, "web", "r1")?;
    let rounds = usize::from(options.rounds) * SWITCHES_PER_ROUND;
    let [ours, floor, line] = in_turns(
        rounds,
        [
            &mut || {
                let to = other(&links[0])?;
                sleep(IDLE);
                Ok(timed(|| lab.roll_back(&mut client, "web", to))?.0)
            },
            &mut || {
                let to = other(&links[0])?;
                lab.host().sh(&format!("ln -sfn releases/{to} /srv/web/.next"))?;
                sleep(IDLE);
                Ok(timed(|| lab.runtime.block_on(bus.switch("web.service", &links)))?.0)
            },
            &mut || {
                let to = other(&links[0])?;
                sleep(IDLE);
                Ok(timed(|| shell.run(&one_liner("web", to)))?.0)
            },
        ],
    )?;
    let rollback = "rollback, order to recorded outcome";
    for goal in [Goal::Ratio(1.05), Goal::RatioOfP99(1.5)] {
        report.rows.push(row(rollback, &ours, ("D-Bus", &floor), goal));
    }
    report.rows.push(row(rollback, &ours, ("one-liner", &line), Goal::Ratio(0.6)));
    flushes(&lab, report)
}

fn row(what: &str, ours: &Samples, floor: (&str, &Samples), goal: Goal) -> Row {
    let floor = Some((floor.0.to_owned(), floor.1.clone()));
    Row { figure: "P1", what: what.to_owned(), unit: "ms", ours: ours.clone(), floor, goal }
}

/// Counts the flushes of one rollback, by tracing every call of the agent that changes the disk.
fn flushes(lab: &Lab, report: &mut Report) -> Result<(), Fault> {
    let mut client = lab.client()?;
    let to = other(&lab.outside("/srv/web/current")?)?;
    let disk = [lab.host().outside("/srv"), lab.host().outside("/var/lib/rollback")];
    let trace = Trace::attach(lab.host().main_pid("rb-agent.service")?, Aim::count(&disk))?;
    lab.roll_back(&mut client, "web", to)?;
    let calls = trace.finish()?.calls;
    let count = calls.iter().filter(|call| FLUSHES.contains(&call.name)).count();
    let ours = Samples::new(vec![u32::try_from(count)?.into()]);
    let what = "flushes of one rollback".to_owned();
    report.rows.push(Row { figure: "P1", what, unit: "", ours, floor: None, goal: Goal::AtMost(3.0) });
    Ok(())
}

/// The release that the link does not lead to.
pub(crate) fn other(link: &PathBuf) -> Result<&'static str, Fault> {
    Ok(if std::fs::read_link(link)?.ends_with("r1") { "r2" } else { "r1" })
}

/// What the field does without any tool.
pub(crate) fn one_liner(name: &str, to: &str) -> String {
    format!(
        "systemctl stop {name}; ln -sfn releases/{to} /srv/{name}/.new; mv -T /srv/{name}/.new /srv/{name}/current; \
         systemctl start {name}"
    )
}

/// A shell that waits in the host, so that neither its start nor the door into the host is measured.
struct Shell {
    orders: File,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    fn open(lab: &Lab) -> Result<Self, Fault> {
        lab.host().sh("mkfifo /srv/orders")?;
        let waits = "exec 3<>/srv/orders; while read -r order <&3; do eval \"$order\"; echo done; done";
        let mut shell = lab.host().spawn(&["sh", "-c", waits])?;
        let answers = shell.stdout.take().ok_or("the shell has no output")?;
        let orders = OpenOptions::new().write(true).open(lab.outside("/srv/orders")?)?;
        Ok(Self { orders, answers: BufReader::new(answers) })
    }

    fn run(&mut self, order: &str) -> Result<(), Fault> {
        writeln!(self.orders, "{order}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer == "done\n" { Ok(()) } else { Err(format!("the shell says {answer:?}").into()) }
    }
}
