//! Selects series by name and labels, written as in PromQL: `http_requests_total{code=~"5..", method!="OPTIONS"}`.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::exposition::{Sample, blanks, identifier, quoted};

/// Bytes of memory that one compiled expression may take: a page of alternatives, no more.
pub(super) const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// Which series count.
#[derive(Debug, Clone)]
pub struct Selector {
    text: String,
    name: String,
    matchers: Vec<Matcher>,
}

#[derive(Debug, Clone)]
struct Matcher {
    label: String,
    wanted: bool,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    Is(String),
    Matches(Regex),
}

/// A text that selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is not a name with labels in braces.
    #[error("{0:?} is not `name` or `name{{label=\"value\"}}`")]
    Form(String),
    /// The expression of a label does not compile.
    #[error("the expression {0:?} is not one, or is too large")]
    Expression(String),
}

impl Selector {
    /// Tells whether a sample is of this selection, its name taken with `suffix` behind it.
    #[must_use]
    pub fn selects(&self, sample: &Sample<'_>, suffix: &str) -> bool {
        let is_named = sample.name.strip_prefix(self.name.as_str()) == Some(suffix);
        is_named && self.matchers.iter().all(|matcher| matcher.fits(sample.label(&matcher.label)))
    }

    /// The metric's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Matcher {
    fn fits(&self, value: &str) -> bool {
        let found = match &self.how {
            How::Is(wanted) => wanted == value,
            How::Matches(expression) => expression.is_match(value),
        };
        found == self.wanted
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let form = || SelectorError::Form(text.to_owned());
        let (name, rest) = identifier(text, true).ok_or_else(form)?;
        let mut matchers = Vec::new();
        if let Some(mut rest) = rest.strip_prefix('{') {
            loop {
                rest = blanks(rest);
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                } else {
                    let (matcher, after) = matcher(rest).ok_or_else(form)?;
                    matchers.push(matcher?);
                    rest = blanks(after);
                    if let Some(after) = rest.strip_prefix(',') {
                        rest = after;
                        continue;
                    }
                    rest = rest.strip_prefix('}').ok_or_else(form)?;
                }
                break;
            }
            if !rest.is_empty() {
                return Err(form());
            }
        } else if !rest.is_empty() {
            return Err(form());
        }
        Ok(Self { text: text.to_owned(), name: name.to_owned(), matchers })
    }
}

/// Takes one matcher off the front; none when that is no matcher.
fn matcher(text: &str) -> Option<(Result<Matcher, SelectorError>, &str)> {
    let (label, rest) = identifier(text, false)?;
    let rest = blanks(rest);
    let operators = [("=~", true, true), ("!~", false, true), ("!=", false, false), ("=", true, false)];
    let (operator, wanted, is_expression) = operators.into_iter().find(|(sign, ..)| rest.starts_with(sign))?;
    let (value, rest) = quoted(blanks(&rest[operator.len()..]))?;
    let how = if is_expression { whole(&value).map(How::Matches) } else { Ok(How::Is(value.into_owned())) };
    Some((how.map(|how| Matcher { label: label.to_owned(), wanted, how }), rest))
}

/// Compiles an expression that the whole value must match, as in PromQL.
fn whole(expression: &str) -> Result<Regex, SelectorError> {
    let wrong = |_| SelectorError::Expression(expression.to_owned());
    // By itself first: `a)(b` must not become an expression by what is put around it.
    Regex::new(expression).map_err(wrong)?;
    RegexBuilder::new(&format!("^(?s:{expression})$")).size_limit(EXPRESSION_BYTES_MAX).build().map_err(wrong)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
