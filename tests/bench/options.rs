//! What a run is told: which figures, how many rounds, how large.

use std::path::PathBuf;

use clap::Parser;

/// Measures how fast `rollback` is, each figure against its floor or peer in the same run.
#[derive(Debug, Parser)]
#[command(name = "figures")]
pub(crate) struct Options {
    /// The figures to measure, such as `P1 P5`; all of them when none is named.
    pub(crate) figures: Vec<String>,
    /// Rounds; each measures ours and what it is held against in turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(5..))]
    pub(crate) rounds: u16,
    /// Write the report as JSON too.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where files are laid down that are read and verified.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) work: PathBuf,
    /// P5 and P8: MiB of each release; the goals of P5 are for 4096.
    #[arg(long, value_name = "MIB", default_value_t = 1_024)]
    pub(crate) mib: u64,
    /// P6: seconds at rest.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) rest: u64,
    /// P6: rollbacks after which the memory is looked at again; the goal is for 10000.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub(crate) rollbacks: usize,
    /// P9: operations in the history that is filtered.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub(crate) operations: usize,
}
