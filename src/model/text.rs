//! Text that people write: bounded, and without characters that could forge a log line or drive a terminal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest reason or note in bytes: a paragraph, and small enough to stand in a journal field and an intent slot.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Says why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text has nothing but blanks.
    #[error("the text is empty")]
    Empty,
    /// The text is longer than [`TEXT_BYTES_MAX`].
    #[error("the text has {0} bytes, at most {TEXT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The text has a control or direction character.
    #[error("the text has the character {0:?}, which is not allowed")]
    Character(char),
}

/// A reason or a note: one paragraph with neither control characters nor bidirectional overrides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

impl Text {
    /// Checks a text; blanks at both ends are dropped.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character that is not allowed.
    pub fn new(text: &str) -> Result<Self, TextError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TextError::Empty);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong(text.len()));
        }
        match text.chars().find(|c| is_unsafe(*c)) {
            Some(found) => Err(TextError::Character(found)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        Self::new(&text)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Tells whether a character may reach neither a log nor a terminal: controls, line separators, direction marks.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Makes foreign output (a hook's, a health body's, an error's) safe to store and print.
///
/// Takes any bytes; gives at most `bytes_max` bytes of text, in which invalid UTF-8 is replaced and every unsafe
/// character but a newline is escaped.
#[must_use]
pub fn sanitize(bytes: &[u8], bytes_max: usize) -> String {
    let mut safe = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)]).chars() {
        let escaped = if is_unsafe(c) && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
        if safe.len() + escaped.len() > bytes_max {
            break;
        }
        safe.push_str(&escaped);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_forges_fields_or_drives_terminals_is_refused() {
        for text in ["", "  ", "a\nACTOR=root", "a\u{1b}]0;x", "a\u{202e}b", "a\0"] {
            assert!(Text::new(text).is_err(), "{text:?}");
        }
        assert_eq!(Text::new(" 5xx after deploy, OPS-1 ").map(String::from), Ok("5xx after deploy, OPS-1".to_owned()));
    }

    #[test]
    fn foreign_output_is_bounded_and_escaped() {
        let safe = sanitize(b"ok\n\x1b[31mred\xff", 64);
        assert_eq!(safe, "ok\n\\u{1b}[31mred\u{fffd}");
        assert!(sanitize(&[0x1b; 4096], 100).len() <= 100);
    }
}
