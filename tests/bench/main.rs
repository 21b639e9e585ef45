//! `figures`: measures how fast the product is, each figure against its floor or peer in the same run.
//!
//! Measures only; what is too slow is the product's to change. `docs/figures.md` has the command and a table.

mod bus;
mod figures;
mod lab;
mod local;
mod machine;
mod options;
mod p01;
mod p02;
mod p05;
mod p06;
mod p07;
mod p08;
mod p09;
mod p10;
mod p11;
mod sample;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use figures::{Fault, Report};
use options::Options;

type Measure = fn(&Options, &mut Report) -> Result<(), Fault>;

/// The figures in their order.
const FIGURES: [(&str, Measure); 9] = [
    ("P1", p01::measure),
    ("P2", p02::measure),
    ("P5", p05::measure),
    ("P6", p06::measure),
    ("P7", p07::measure),
    ("P8", p08::measure),
    ("P9", p09::measure),
    ("P10", p10::measure),
    ("P11", p11::measure),
];

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(unknown) = options.figures.iter().find(|name| !FIGURES.iter().any(|(known, _)| known == name)) {
        let known: Vec<_> = FIGURES.iter().map(|(name, _)| *name).collect();
        say(&format!("there is no figure `{unknown}`, only {}", known.join(", ")));
        return ExitCode::FAILURE;
    }
    let machine = machine::Machine::look(&options.work);
    let mut report = Report::default();
    for (name, measure) in FIGURES {
        if !options.figures.is_empty() && !options.figures.iter().any(|wanted| wanted == name) {
            continue;
        }
        say(&format!("measuring {name}"));
        if let Err(fault) = measure(&options, &mut report) {
            report.skip(name, rollback::chain::Chain(&*fault));
        }
    }
    let load_after = machine::load();
    // A closed output must not end the run before its report is written.
    drop(write!(std::io::stdout(), "{}", table::text(&machine, &load_after, &report)));
    if let Some(path) = &options.json
        && let Err(error) = write_json(path, &table::json(&machine, &load_after, &report))
    {
        say(&format!("cannot write `{}`: {error}", path.display()));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    // With standard error closed there is nobody to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[expect(clippy::disallowed_methods, reason = "the report is the run's product")]
fn write_json(path: &std::path::Path, report: &serde_json::Value) -> std::io::Result<()> {
    std::fs::write(path, format!("{report:#}\n"))
}
