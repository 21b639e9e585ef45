//! Quantiles of a histogram's buckets, as PromQL's `histogram_quantile` has them.

use std::cmp::Ordering;

/// The upper bound of a bucket: a number or infinity, never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound(f64);

impl Bound {
    /// Reads a bound as the label `le` has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|bound: &f64| !bound.is_nan()).map(Self)
    }
}

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Finds the quantile in cumulative buckets of ascending bounds; none without a bucket of infinity or without
/// observations.
///
/// Within a bucket observations are taken as evenly spread, from zero in the first one. What lies beyond the last finite
/// bound is that bound. A bucket that holds less than one before it, as racing counters may, counts as much as that one.
#[must_use]
pub fn quantile(quantile: f64, buckets: &[(Bound, f64)]) -> Option<f64> {
    let mut most = 0.0_f64;
    let cumulative: Vec<(f64, f64)> = buckets
        .iter()
        .map(|(bound, count)| {
            most = most.max(*count);
            (bound.0, most)
        })
        .collect();
    let (last, total) = *cumulative.last()?;
    if last != f64::INFINITY || cumulative.len() < 2 || total <= 0.0 {
        return None;
    }
    let rank = quantile * total;
    let finite = &cumulative[..cumulative.len() - 1];
    let Some(at) = finite.iter().position(|(_, count)| *count >= rank) else {
        return finite.last().map(|(bound, _)| *bound);
    };
    let (upper, count) = finite[at];
    let (lower, below) = match at.checked_sub(1) {
        Some(before) => finite[before],
        None if upper <= 0.0 => return Some(upper),
        None => (0.0, 0.0),
    };
    let within = count - below;
    Some(if within > 0.0 { lower + (upper - lower) * ((rank - below) / within) } else { upper })
}
