//! P9: the durable record of an intent against an append that is flushed; a filter and the check of a long history.
#![expect(clippy::disallowed_methods, reason = "the floor appends to a file of its own")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use jiff::Timestamp;
use rollback::model::record::HistoryFilter;
use rollback_agent::driver::journal::FileJournal;
use rollback_agent::history::SqliteHistory;
use rollback_agent::ports::{ChainAudit, History, IntentJournal};
use tokio::runtime::Runtime;

use crate::figures::{Fault, Goal, Report, Row, in_turns, timed};
use crate::options::Options;
use crate::sample::{ended, operation};

/// Intents per round: each is one flush.
const INTENTS_PER_ROUND: usize = 50;
/// Records of the chain that is checked.
const CHAIN: usize = 100_000;
/// Records that one call appends: far below what the history's limit lets pass.
const BATCH: usize = 2_000;
/// What is listed.
const LISTED: u32 = 20;

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let directory = tempfile::tempdir_in(&options.work)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    intents(options, report, directory.path())?;
    outcomes(options, report, directory.path(), &runtime)?;
    let history = filled(&directory.path().join("chain/history.db"), CHAIN, &runtime)?;
    audits(options, report, &history, &runtime)?;
    drop(history);
    let history = filled(&directory.path().join("long/history.db"), options.operations, &runtime)?;
    filters(options, report, &history, &runtime)
}

/// The floor: as many bytes, appended and flushed.
fn appending(path: &Path, bytes: usize) -> Result<impl FnMut() -> Result<f64, Fault> + use<>, Fault> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let content = vec![b'.'; bytes];
    Ok(move || {
        let written = timed(|| {
            file.write_all(&content)?;
            Ok(file.sync_data()?)
        })?;
        Ok(written.0)
    })
}

fn intents(options: &Options, report: &mut Report, directory: &Path) -> Result<(), Fault> {
    let journal = FileJournal::open(&directory.join("intents"))?;
    let intent = operation(0)?;
    let bytes = serde_json::to_vec(&intent)?.len();
    let mut floor = appending(&directory.join("append"), bytes)?;
    let [ours, floor] = in_turns(
        usize::from(options.rounds) * INTENTS_PER_ROUND,
        [&mut || Ok(timed(|| Ok(journal.put(&intent, true)?))?.0), &mut || floor()],
    )?;
    let floor = Some((format!("append of {bytes} bytes and fdatasync"), floor));
    let what = "durable intent".to_owned();
    report.rows.push(Row { figure: "P9", what, unit: "ms", ours, floor, goal: Goal::Ratio(1.2) });
    Ok(())
}

fn outcomes(options: &Options, report: &mut Report, directory: &Path, runtime: &Runtime) -> Result<(), Fault> {
    let history = SqliteHistory::open(&directory.join("outcomes/history.db"))?;
    let bytes = serde_json::to_vec(&ended(0)?)?.len();
    let mut floor = appending(&directory.join("append"), bytes)?;
    let mut n = 0;
    let [ours, floor] = in_turns(
        usize::from(options.rounds) * INTENTS_PER_ROUND,
        [
            &mut || {
                n += 1;
                let records = vec![ended(n)?];
                Ok(timed(|| Ok(runtime.block_on(history.append(Timestamp::UNIX_EPOCH, records, true))?))?.0)
            },
            &mut || floor(),
        ],
    )?;
    let floor = Some((format!("append of {bytes} bytes and fdatasync"), floor));
    let what = "durable outcome in the history".to_owned();
    report.rows.push(Row { figure: "P9", what, unit: "ms", ours, floor, goal: Goal::None });
    Ok(())
}

/// Makes a history of so many operations.
fn filled(path: &Path, operations: usize, runtime: &Runtime) -> Result<SqliteHistory, Fault> {
    let history = SqliteHistory::open(path)?;
    let numbers: Vec<u64> = (0..u64::try_from(operations)?).collect();
    for batch in numbers.chunks(BATCH) {
        let records = batch.iter().map(|n| ended(*n)).collect::<Result<_, _>>()?;
        runtime.block_on(history.append(Timestamp::UNIX_EPOCH, records, false))?;
    }
    Ok(history)
}

fn audits(options: &Options, report: &mut Report, history: &SqliteHistory, runtime: &Runtime) -> Result<(), Fault> {
    let [ours] = in_turns(
        options.rounds.into(),
        [&mut || {
            let (took, found) = timed(|| Ok(runtime.block_on(history.audit())?))?;
            match found {
                ChainAudit::Sound(_) => Ok(took),
                broken @ ChainAudit::Broken { .. } => Err(format!("the chain is {broken:?}").into()),
            }
        }],
    )?;
    let what = format!("check of the chain of {CHAIN} records");
    report.rows.push(Row { figure: "P9", what, unit: "ms", ours, floor: None, goal: Goal::AtMost(2_000.0) });
    Ok(())
}

fn filters(options: &Options, report: &mut Report, history: &SqliteHistory, runtime: &Runtime) -> Result<(), Fault> {
    let filter = HistoryFilter {
        environment: Some("prod3".parse()?),
        component: Some("web3".parse()?),
        since: None,
        until: None,
        result: None,
        actor: None,
        limit: LISTED,
    };
    let [ours] = in_turns(
        options.rounds.into(),
        [&mut || {
            let (took, lines) = timed(|| Ok(runtime.block_on(history.list(filter.clone()))?))?;
            if lines.len() == LISTED as usize { Ok(took) } else { Err(format!("{} lines", lines.len()).into()) }
        }],
    )?;
    let what = format!("the last {LISTED} by a filter among {} operations", options.operations);
    report.rows.push(Row { figure: "P9", what, unit: "ms", ours, floor: None, goal: Goal::AtMost(5.0) });
    Ok(())
}
