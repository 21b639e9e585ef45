//! What is wrong with a configuration: every problem with its file, its line, and what to do about it.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollback::model::text::is_unsafe;

/// Where in the files something was said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", escape(&self.file.to_string_lossy()), self.line)
    }
}

/// One problem of a configuration, printed as `FILE:LINE: message (hint)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigProblem {
    /// The file or directory that has it.
    pub file: PathBuf,
    /// The line, counted from 1; none when the problem is the file itself.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ConfigProblem {
    /// Makes a problem of a file or directory as a whole.
    #[must_use]
    pub fn of_file(file: &Path, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { file: file.to_owned(), line: None, message: message.into(), hint }
    }
}

impl fmt::Display for ConfigProblem {
    /// Prints one line, whatever the file's name and content were: unsafe characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", escape(&self.file.to_string_lossy()))?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", escape(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", escape(hint)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigProblem {}

/// All problems of a configuration in the order of files and lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<ConfigProblem>,
}

impl ConfigErrors {
    /// Returns the problems.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    /// Prints one problem per line, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects problems, so that one reading finds all of them.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<ConfigProblem>>);

impl Problems {
    pub(super) fn add(&self, place: &Place, message: impl Into<String>) {
        self.push(ConfigProblem {
            file: place.file.to_path_buf(),
            line: Some(place.line),
            message: message.into(),
            hint: None,
        });
    }

    pub(super) fn hint(&self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.push(ConfigProblem {
            file: place.file.to_path_buf(),
            line: Some(place.line),
            message: message.into(),
            hint: Some(hint.into()),
        });
    }

    pub(super) fn push(&self, problem: ConfigProblem) {
        self.0.borrow_mut().push(problem);
    }

    /// Gives the value when there was no problem, and all problems otherwise.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems.dedup();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            Some(_) | None => Err(ConfigErrors { problems }),
        }
    }
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if is_unsafe(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
        safe
    })
}

/// Longest key that is compared with the known ones: none of those is longer, and a comparison costs its square.
const KEY_COMPARED_CHARS_MAX: usize = 32;

/// Finds the known key that was probably meant: at most two letters, and less than half of them, differ.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let chars = key.chars().count();
    if chars > KEY_COMPARED_CHARS_MAX {
        return None;
    }
    let (distance, best) = known.iter().map(|candidate| (distance(key, candidate), *candidate)).min()?;
    (distance <= 2 && distance * 2 < chars).then_some(best)
}

/// Counts the insertions, deletions and replacements that lead from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_and_far_ones_are_not_guessed() {
        assert_eq!(nearest("naem", &["name", "root", "units"]), None);
        assert_eq!(nearest("unit", &["name", "root", "units"]), Some("units"));
        assert_eq!(nearest("enviroment", &["environment", "root"]), Some("environment"));
        assert_eq!(nearest("x", &["name"]), None);
        assert_eq!(nearest(&"n".repeat(100_000), &["name"]), None);
    }

    #[test]
    fn a_problem_is_one_line_whatever_its_words_are() {
        let problem = ConfigProblem::of_file(Path::new("a\nb.toml"), "bad\u{1b}[31m", Some("fix\r\nit".to_owned()));
        assert_eq!(problem.to_string(), r"a\nb.toml: bad\u{1b}[31m (fix\r\nit)");
    }
}
