//! P11: whether a rollback takes longer when the release is large.

use std::thread::sleep;

use crate::figures::{Fault, Goal, Report, Row, in_turns, timed};
use crate::lab::{Component, Lab};
use crate::options::Options;
use crate::p01::{IDLE, other};

/// Rollbacks per round.
const SWITCHES_PER_ROUND: usize = 5;

const SMALL: Component = Component { name: "small", port: 8081, files: 0, probed: false };
const LARGE: Component = Component { name: "large", port: 8082, files: 100_000, probed: false };

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let lab = Lab::up(&[SMALL, LARGE])?;
    let mut client = lab.client()?;
    let mut other_client = client.clone();
    let small_link = lab.outside("/srv/small/current")?;
    let large_link = lab.outside("/srv/large/current")?;
    let [large, small] = in_turns(
        usize::from(options.rounds) * SWITCHES_PER_ROUND,
        [
            &mut || {
                let to = other(&large_link)?;
                sleep(IDLE);
                Ok(timed(|| lab.roll_back(&mut client, LARGE.name, to))?.0)
            },
            &mut || {
                let to = other(&small_link)?;
                sleep(IDLE);
                Ok(timed(|| lab.roll_back(&mut other_client, SMALL.name, to))?.0)
            },
        ],
    )?;
    report.rows.push(Row {
        figure: "P11",
        what: "rollback to a release of 100,000 files".to_owned(),
        unit: "ms",
        ours: large,
        floor: Some(("of 1 file".to_owned(), small)),
        goal: Goal::Ratio(1.02),
    });
    Ok(())
}
