//! The watch of a deploy.

use super::health::severity_in;
use super::{ConvertError, enum_words, list, name, required, required_time, time_out, word, wrong};
use crate::model::decision::{Asked, Choice, Undecided};
use crate::model::watch::{Moment, WATCH_MS_MAX, WATCH_MS_MIN, Watch, WatchTerms, Watched};
use crate::wire::v1;

enum_words!(Undecided, v1::Undecided, "undecided", { RollBack <=> RollBack, Stay <=> Stay });
enum_words!(Choice, v1::Choice, "choice", { RollBack <=> RollBack, Skip <=> Skip, Investigate <=> Investigate });

impl From<Asked> for v1::Asked {
    fn from(asked: Asked) -> Self {
        Self { since: Some(asked.since.into()), lasts_ms: asked.lasts_ms }
    }
}

impl TryFrom<v1::Asked> for Asked {
    type Error = ConvertError;

    fn try_from(asked: v1::Asked) -> Result<Self, ConvertError> {
        Ok(Self { since: required("since", asked.since)?.try_into()?, lasts_ms: asked.lasts_ms })
    }
}

impl From<WatchTerms> for v1::WatchTerms {
    fn from(terms: WatchTerms) -> Self {
        Self { lasts_ms: terms.lasts_ms, auto: terms.auto, confirm_ms: terms.confirm_ms }
    }
}

impl TryFrom<v1::WatchTerms> for WatchTerms {
    type Error = ConvertError;

    fn try_from(terms: v1::WatchTerms) -> Result<Self, ConvertError> {
        Ok(Self {
            lasts_ms: terms.lasts_ms.map(|millis| bounded("lasts_ms", millis)).transpose()?,
            auto: terms.auto,
            confirm_ms: terms.confirm_ms.map(|millis| bounded("confirm_ms", millis)).transpose()?,
        })
    }
}

fn bounded(field: &'static str, millis: u64) -> Result<u64, ConvertError> {
    if (WATCH_MS_MIN..=WATCH_MS_MAX).contains(&millis) {
        return Ok(millis);
    }
    Err(wrong(field, format!("{millis} is not between {WATCH_MS_MIN} and {WATCH_MS_MAX}")))
}

impl From<Watch> for v1::WatchPlan {
    fn from(watch: Watch) -> Self {
        Self {
            lasts_ms: watch.lasts_ms,
            auto: watch.auto,
            confirm_ms: watch.confirm_ms,
            dead_man: watch.dead_man,
            automatic_from: v1::Severity::from(watch.automatic_from).into(),
            ask_ms: watch.ask_ms,
            undecided: v1::Undecided::from(watch.undecided).into(),
        }
    }
}

impl TryFrom<v1::WatchPlan> for Watch {
    type Error = ConvertError;

    fn try_from(watch: v1::WatchPlan) -> Result<Self, ConvertError> {
        Ok(Self {
            lasts_ms: bounded("lasts_ms", watch.lasts_ms)?,
            auto: watch.auto,
            confirm_ms: watch.confirm_ms.map(|millis| bounded("confirm_ms", millis)).transpose()?,
            dead_man: watch.dead_man,
            automatic_from: severity_in("automatic_from", watch.automatic_from)?,
            ask_ms: watch.ask_ms,
            undecided: match word::<v1::Undecided>("undecided", watch.undecided)? {
                // An older version did not send it.
                v1::Undecided::Unspecified => Undecided::default(),
                undecided => undecided.try_into()?,
            },
        })
    }
}

impl From<Moment> for v1::Moment {
    fn from(moment: Moment) -> Self {
        Self { boot: moment.boot, since_boot_ms: moment.since_boot_ms, at: Some(time_out(moment.at)) }
    }
}

impl TryFrom<v1::Moment> for Moment {
    type Error = ConvertError;

    fn try_from(moment: v1::Moment) -> Result<Self, ConvertError> {
        Ok(Self { boot: moment.boot, since_boot_ms: moment.since_boot_ms, at: required_time("at", moment.at)? })
    }
}

impl From<Watched> for v1::Watched {
    fn from(watched: Watched) -> Self {
        let failing = watched.failing.into_iter();
        Self {
            began: Some(watched.began.into()),
            confirmed_by: watched.confirmed_by.unwrap_or_default(),
            failing: failing.map(|(probe, at)| v1::Failing { probe: probe.into(), since: Some(at.into()) }).collect(),
        }
    }
}

impl TryFrom<v1::Watched> for Watched {
    type Error = ConvertError;

    fn try_from(watched: v1::Watched) -> Result<Self, ConvertError> {
        let failing = |one: v1::Failing| Ok((name("probe", &one.probe)?, required("since", one.since)?.try_into()?));
        Ok(Self {
            began: required("began", watched.began)?.try_into()?,
            failing: list("failing", watched.failing, failing)?.into_iter().collect(),
            confirmed_by: (!watched.confirmed_by.is_empty()).then_some(watched.confirmed_by),
        })
    }
}
