//! P5: reading a release in full against `b3sum` on all cores, and the check by stat against `find`.
#![expect(clippy::disallowed_methods, reason = "releases are laid down, and b3sum and find are started on them")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rollback::wire::v1;
use tokio_stream::StreamExt as _;

use crate::figures::{Fault, Goal, Report, Row, Samples, in_turns, timed};
use crate::lab::{run, small_files};
use crate::local::LocalAgent;
use crate::options::Options;

/// Files of the release that has many small ones.
const SMALL_FILES: usize = 100_000;
/// Files of the release that has few large ones.
const LARGE_FILES: u64 = 8;
const MIB: u64 = 1024 * 1024;

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), Fault> {
    let directory = tempfile::tempdir_in(&options.work)?;
    let bytes = options.mib * MIB;
    let large = LocalAgent::start(&directory.path().join("large"), "host = \"large\"\n", &["r1"], |_, path| {
        (0..LARGE_FILES).try_for_each(|nth| large_file(&path.join(format!("file{nth}")), nth, bytes / LARGE_FILES))
    })?;
    reading(options, report, &large, "8 files", Goal::Ratio(1.05))?;
    let peak = Samples::one(peak_mib(large.pid())?);
    let what = "memory of the agent that read 8 files".to_owned();
    report.rows.push(Row { figure: "P5", what, unit: "MiB", ours: peak, floor: None, goal: Goal::AtMost(40.0) });
    drop(large);
    let each = usize::try_from(bytes)? / SMALL_FILES;
    let small = LocalAgent::start(&directory.path().join("small"), "host = \"small\"\n", &["r1"], |_, path| {
        small_files(path, SMALL_FILES, each)
    })?;
    reading(options, report, &small, "100,000 files", Goal::Ratio(0.25))?;
    let peak = Samples::one(peak_mib(small.pid())?);
    let what = "memory of the agent that read 100,000 files".to_owned();
    report.rows.push(Row { figure: "P5", what, unit: "MiB", ours: peak, floor: None, goal: Goal::AtMost(40.0) });
    checking(options, report, &small)
}

/// Reads a release in full.
fn reading(options: &Options, report: &mut Report, agent: &LocalAgent, files: &str, goal: Goal) -> Result<(), Fault> {
    let list = list(&agent.release("r1"))?;
    let digest = || {
        let request = v1::VerifyRequest { release: "r1".to_owned(), ..v1::VerifyRequest::default() };
        Ok(timed(|| agent.runtime.block_on(verify(agent, request)))?.0)
    };
    let what = format!("verify of {} MiB in {files}", options.mib);
    // Once before, so that all of it is in memory.
    digest()?;
    if Command::new("b3sum").arg("--version").output().is_err() {
        report.skip("P5 against b3sum", "there is no b3sum: `cargo install b3sum`");
        let ours = Samples::new((0..options.rounds).map(|_| digest()).collect::<Result<_, _>>()?);
        report.rows.push(Row { figure: "P5", what, unit: "ms", ours, floor: None, goal: Goal::None });
        return Ok(());
    }
    let [ours, floor] = in_turns(
        options.rounds.into(),
        [&mut || digest(), &mut || {
            let mut b3sum = Command::new("xargs");
            b3sum.args(["-0", "-s", "2000000", "-n", "1000000", "-a"]).arg(list.path()).args(["b3sum", "--no-names"]);
            Ok(timed(|| run_silent(b3sum))?.0)
        }],
    )?;
    report.rows.push(Row { figure: "P5", what, unit: "ms", ours, floor: Some(("b3sum".to_owned(), floor)), goal });
    Ok(())
}

/// Checks a release by a stat of every entry.
fn checking(options: &Options, report: &mut Report, agent: &LocalAgent) -> Result<(), Fault> {
    let mut client = agent.client()?;
    let release = agent.release("r1");
    let find = |arguments: &[&str]| {
        let mut find = Command::new("find");
        find.arg(&release).args(arguments);
        Ok(timed(|| run_silent(find))?.0)
    };
    let [ours, stats, names] = in_turns(
        options.rounds.into(),
        [
            &mut || {
                let request = v1::ListReleasesRequest::default();
                Ok(timed(|| Ok(agent.runtime.block_on(client.list_releases(request))?))?.0)
            },
            // Asks for the metadata of every entry and prints none.
            &mut || find(&["-newermt", "2100-01-01"]),
            &mut || find(&["-name", "none"]),
        ],
    )?;
    let what = "check by stat of 100,000 files";
    for (name, floor, goal) in
        [("find that stats", stats, Goal::Ratio(1.1)), ("find that reads names only", names, Goal::None)]
    {
        let floor = Some((name.to_owned(), floor));
        report.rows.push(Row { figure: "P5", what: what.to_owned(), unit: "ms", ours: ours.clone(), floor, goal });
    }
    Ok(())
}

async fn verify(agent: &LocalAgent, request: v1::VerifyRequest) -> Result<(), Fault> {
    let mut events = agent.connect().await?.verify(request).await?.into_inner();
    while let Some(event) = events.next().await {
        if let Some(v1::verify_event::Event::Result(result)) = event?.event {
            let integrity = result.release.and_then(|release| release.integrity?.integrity);
            return match integrity {
                Some(v1::integrity::Integrity::Intact(_)) => Ok(()),
                other => Err(format!("the release is {other:?}").into()),
            };
        }
    }
    Err("the agent broke off".into())
}

/// Writes the paths of all files below a directory, each ended by a zero, so that listing them is not measured.
fn list(directory: &Path) -> Result<tempfile::NamedTempFile, Fault> {
    let list = tempfile::NamedTempFile::new()?;
    let mut find = Command::new("find");
    find.arg(directory).args(["-type", "f", "-print0"]).stdout(list.reopen()?);
    if find.status()?.success() { Ok(list) } else { Err("find failed".into()) }
}

fn run_silent(mut command: Command) -> Result<(), Fault> {
    command.stdout(Stdio::null());
    run(command)
}

fn large_file(path: &Path, nth: u64, bytes: u64) -> Result<(), Fault> {
    let mut file = File::create(path)?;
    for mib in 0..bytes / MIB {
        file.write_all(&(nth << 32 | mib).to_le_bytes().repeat(usize::try_from(MIB)? / 8))?;
    }
    Ok(())
}

/// The most memory that a process has had.
fn peak_mib(pid: u32) -> Result<f64, Fault> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    Ok(peak.map(|kib: f64| kib / 1024.0).ok_or("the kernel tells no peak")?)
}
