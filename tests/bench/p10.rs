//! P10: how fast the client starts, and how large the programs are.
#![expect(clippy::disallowed_methods, reason = "programs are started and their files looked at")]

use std::process::{Command, Stdio};

use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns, timed};
use crate::lab::{Component, Lab, built, run};
use crate::options::Options;

/// Starts per round: each takes a millisecond.
const STARTS_PER_ROUND: usize = 20;

const WEB: Component = Component { name: "web", port: 8080, files: 0, probed: false };

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    for (program, most) in [("rb-agent", 15.0), ("rbctl", 6.0)] {
        let bytes = std::fs::metadata(built(program)?)?.len();
        let ours = Samples::one(f64::from(u32::try_from(bytes)?) / 1e6);
        let what = format!("size of {program}");
        report.rows.push(Row { figure: "P10", what, unit: "MB", ours, floor: None, goal: Goal::AtMost(most) });
    }
    report.skip("P10 clean debug build", "it takes the machine for minutes: `cargo clean && time cargo build`");
    let rounds = usize::from(options.rounds) * STARTS_PER_ROUND;
    let rbctl = built("rbctl")?;
    let mut version = || start(Command::new(&rbctl), "--version");
    against(rounds, report, ("rbctl --version", &mut version), ("b3sum", "--version", Goal::Ratio(2.0)))?;
    let lab = Lab::up(&[WEB])?;
    // On a thread of its own, because the thread stays on the host's network.
    std::thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            lab.enter_net()?;
            let mut status = || Ok(timed(|| run(lab.rbctl(&["status", "--host", "h1"])?))?.0);
            let what = "rbctl status of one host, cold";
            against(rounds, report, (what, &mut status), ("ssh", "-V", Goal::Ratio(1.5)))
        });
        measuring.join().unwrap_or_else(|_| Err("the measuring thread panicked".into()))
    })
}

/// Holds something against the start of a tool of this machine, and measures it alone where there is none.
fn against(
    rounds: usize,
    report: &mut Report,
    ours: (&str, &mut dyn FnMut() -> Result<f64, Fault>),
    floor: (&str, &str, Goal),
) -> Result<(), Fault> {
    let (what, measure) = ours;
    let (tool, argument, goal) = floor;
    let (ours, floor, goal) = if start(Command::new(tool), argument).is_ok() {
        let [ours, floor] = in_turns(rounds, [measure, &mut || start(Command::new(tool), argument)])?;
        (ours, Some((format!("{tool} {argument}"), floor)), goal)
    } else {
        report.skip(&format!("P10 against {tool}"), format!("there is no `{tool}`"));
        let [ours] = in_turns(rounds, [measure])?;
        (ours, None, Goal::None)
    };
    report.rows.push(Row { figure: "P10", what: what.to_owned(), unit: "ms", ours, floor, goal });
    Ok(())
}

fn start(mut command: Command, argument: &str) -> Result<f64, Fault> {
    command.arg(argument).stdin(Stdio::null());
    Ok(timed(|| run(command))?.0)
}
