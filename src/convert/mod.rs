//! Between wire and model: fallible inwards, total outwards, exhaustive.
