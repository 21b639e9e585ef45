//! The driver: the loop that asks the engine, writes the intent, performs the effect and hands the event back.

pub mod journal;
