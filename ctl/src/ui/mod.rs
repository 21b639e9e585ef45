//! Answers go to stdout, talk goes to stderr; everything is readable without colour.

pub mod printer;
pub mod report;
pub mod words;
