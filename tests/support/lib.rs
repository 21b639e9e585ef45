//! What the suites share: real hosts, disks that lose power, a tracer that strikes at any syscall.
//!
//! Only `bed`, `installed`, `parsers` and `pki` know the product. The rest starts programs, cuts their power and reports
//! what was there.

pub mod bed;
pub mod countdown;
pub mod hosts;
pub mod images;
pub mod installed;
pub mod parsers;
pub mod pki;
pub mod run;
pub mod skip;
#[cfg(target_arch = "x86_64")]
pub mod sweep;
pub mod wait;
