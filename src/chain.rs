//! Prints an error with its causes; the only way in which errors are printed.

use std::error::Error;
use std::fmt;

/// Displays an error and all its sources in one line, separated by `: `.
///
/// A cause whose text is already the end of what was printed is left out, so that wrapped errors do not stutter.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = self.0.to_string();
        f.write_str(&printed)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !printed.ends_with(&text) {
                write!(f, ": {text}")?;
                printed = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot switch link `current`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_the_error_in_one_line() {
        let error = Outer(std::io::Error::other("disk full"));
        assert_eq!(Chain(&error).to_string(), "cannot switch link `current`: disk full");
    }
}
