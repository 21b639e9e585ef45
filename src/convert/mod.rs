//! Between wire and model: fallible inwards, total outwards, exhaustive.
//!
//! Inwards every name, text, digest and list is checked; what comes out of here cannot be wrong in shape. Whether it is
//! wise is the engine's question.

mod health;
pub mod history;
mod operation;
mod plan;
mod push;
mod refusal;
mod release;
mod watch;

use std::fmt::Display;
use std::str::FromStr;

use jiff::Timestamp;

use crate::model::digest::Digest;
use crate::model::text::{Text, TextError};

/// Longest list that is accepted from the wire: far above any component's releases, far below what hurts.
pub const LIST_ITEMS_MAX: usize = 10_000;

/// Says why a message is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be set is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field's value is wrong.
    #[error("field `{field}`: {why}")]
    Wrong {
        /// The field.
        field: &'static str,
        /// Why.
        why: String,
    },
}

fn wrong(field: &'static str, why: impl Display) -> ConvertError {
    ConvertError::Wrong { field, why: why.to_string() }
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing(field))
}

/// Reads a name; an empty text is an error.
fn name<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|error: T::Err| wrong(field, error))
}

/// Reads a name; an empty text is none.
fn name_or_none<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<Option<T>, ConvertError> {
    if text.is_empty() { Ok(None) } else { name(field, text).map(Some) }
}

fn text_or_none(field: &'static str, text: &str) -> Result<Option<Text>, ConvertError> {
    if text.is_empty() { Ok(None) } else { Text::new(text).map(Some).map_err(|error: TextError| wrong(field, error)) }
}

fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, ConvertError> {
    <[u8; 32]>::try_from(bytes)
        .map(Digest::from_bytes)
        .map_err(|_| wrong(field, format!("a digest has 32 bytes, not {}", bytes.len())))
}

fn list<W, M>(
    field: &'static str,
    items: Vec<W>,
    convert: impl Fn(W) -> Result<M, ConvertError>,
) -> Result<Vec<M>, ConvertError> {
    if items.len() > LIST_ITEMS_MAX {
        return Err(wrong(field, format!("has {} items, at most {LIST_ITEMS_MAX} are accepted", items.len())));
    }
    items.into_iter().map(convert).collect()
}

/// Turns a time of the model into one of the wire.
#[must_use]
pub fn time_out(time: Timestamp) -> prost_types::Timestamp {
    // The model's nanoseconds have the sign of the seconds, the wire's are never negative.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        prost_types::Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
    } else {
        prost_types::Timestamp { seconds, nanos }
    }
}

/// Turns a time of the wire into one of the model.
///
/// # Errors
/// When it is out of range.
pub fn time_in(field: &'static str, time: prost_types::Timestamp) -> Result<Timestamp, ConvertError> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(wrong(field, format!("{} is no count of nanoseconds", time.nanos)));
    }
    Timestamp::new(time.seconds, time.nanos).map_err(|error| wrong(field, error))
}

fn required_time(field: &'static str, time: Option<prost_types::Timestamp>) -> Result<Timestamp, ConvertError> {
    time_in(field, required(field, time)?)
}

fn time_or_none(field: &'static str, time: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, ConvertError> {
    time.map(|time| time_in(field, time)).transpose()
}

fn optional_text<T: Display>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Writes an enum of the wire in both directions; a variant that either side lacks does not compile.
macro_rules! enum_words {
    ($model:ty, $wire:ty, $field:literal, { $($m:ident <=> $w:ident),+ $(,)? }) => {
        impl From<$model> for $wire {
            fn from(value: $model) -> Self {
                match value { $(<$model>::$m => <$wire>::$w,)+ }
            }
        }

        impl TryFrom<$wire> for $model {
            type Error = crate::convert::ConvertError;

            fn try_from(value: $wire) -> Result<Self, crate::convert::ConvertError> {
                match value {
                    $(<$wire>::$w => Ok(<$model>::$m),)+
                    <$wire>::Unspecified => Err(crate::convert::ConvertError::Missing($field)),
                }
            }
        }
    };
}
pub(crate) use enum_words;

fn word<W: TryFrom<i32>>(field: &'static str, value: i32) -> Result<W, ConvertError> {
    W::try_from(value).map_err(|_| wrong(field, format!("{value} is not a value of it")))
}

#[cfg(test)]
mod tests;
