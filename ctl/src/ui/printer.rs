//! The one type through which everything is printed.

use std::io::{IsTerminal as _, Write as _};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use rollback::model::text::sanitize;
use serde::Serialize;

use crate::cli::{Color, Format};
use crate::error::{CommandError, combine};
use crate::fleet::fanout::HostOutcome;

/// The version of everything that is printed for programs.
pub const API_VERSION: &str = "rollback/v1";
/// Longest foreign text in one cell or line: whatever an agent says, the terminal stays readable.
const CELL_BYTES_MAX: usize = 4_096;

/// Prints.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
}

/// An answer of several hosts for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, T: Serialize> {
    api_version: &'a str,
    kind: &'a str,
    hosts: Vec<HostAnswer<'a, T>>,
}

#[derive(Serialize)]
struct HostAnswer<'a, T: Serialize> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a CommandError>,
    #[serde(flatten)]
    answer: Option<&'a T>,
}

impl Printer {
    /// Makes the printer and sets when colour is used.
    #[must_use]
    pub fn new(format: Format, color: Color) -> Self {
        match color {
            Color::Auto if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => {
                ColorChoice::Never.write_global();
            }
            Color::Auto => ColorChoice::Auto.write_global(),
            Color::Always => ColorChoice::Always.write_global(),
            Color::Never => ColorChoice::Never.write_global(),
        }
        Self { format }
    }

    /// The format of answers.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Tells whether answers are for programs.
    #[must_use]
    pub fn is_for_programs(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Prints an answer of several hosts: for programs as one document, for people by `human`; failed hosts follow on
    /// stderr. Gives the exit code, where `code` judges a host that answered.
    pub fn hosts<T: Serialize>(
        &self,
        kind: &str,
        outcomes: &[HostOutcome<T>],
        human: impl FnOnce(&[(&str, &T)]) -> String,
        code: impl Fn(&T) -> u8,
    ) -> u8 {
        if self.is_for_programs() {
            let hosts = outcomes.iter().map(|outcome| HostAnswer {
                host: &outcome.host,
                error: outcome.result.as_ref().err(),
                answer: outcome.result.as_ref().ok(),
            });
            self.document(&Envelope { api_version: API_VERSION, kind, hosts: hosts.collect() });
        } else {
            let answered: Vec<(&str, &T)> =
                outcomes.iter().filter_map(|o| Some((o.host.as_str(), o.result.as_ref().ok()?))).collect();
            if !answered.is_empty() {
                self.answer(&human(&answered));
            }
            for outcome in outcomes {
                if let Err(error) = &outcome.result {
                    self.error(Some(&outcome.host), error);
                }
            }
        }
        let codes: Vec<u8> = outcomes
            .iter()
            .map(|outcome| outcome.result.as_ref().map_or_else(|error| error.kind.exit_code(), &code))
            .collect();
        combine(&codes)
    }

    /// Prints a value for programs, as JSON or YAML.
    pub fn document<T: Serialize>(&self, value: &T) {
        let text = if self.format == Format::Yaml {
            serde_yaml_ng::to_string(value).unwrap_or_else(|error| format!("error: {error}"))
        } else {
            serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
        };
        self.answer(&text);
    }

    /// Prints a value on one line, for answers that go on.
    pub fn line<T: Serialize>(&self, value: &T) {
        self.answer(&serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")));
    }

    /// Prints on stdout. A reader that went away is no error.
    pub fn answer(&self, text: &str) {
        drop(writeln!(anstream::stdout().lock(), "{}", text.trim_end()));
    }

    /// Talks on stderr.
    pub fn say(&self, text: &str) {
        drop(writeln!(anstream::stderr().lock(), "{text}"));
    }

    /// Warns on stderr.
    pub fn warn(&self, text: &str) {
        let style = Style::new().fg_color(Some(AnsiColor::Yellow.into())).bold();
        self.say(&format!("{style}warning:{style:#} {}", safe(text)));
    }

    /// Prints an error with its hints on stderr.
    pub fn error(&self, host: Option<&str>, error: &CommandError) {
        let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        let host = host.map(|host| format!("{}: ", safe(host))).unwrap_or_default();
        let code = error.code.as_ref().map(|code| format!(" [{}]", safe(code))).unwrap_or_default();
        self.say(&format!("{style}error:{style:#} {host}{}{code}", safe(&error.text)));
        for hint in &error.hints {
            self.say(&format!("  hint: {}", safe(hint)));
        }
    }
}

/// Makes foreign text safe for a terminal.
#[must_use]
pub fn safe(text: &str) -> String {
    sanitize(text.as_bytes(), CELL_BYTES_MAX)
}

/// Builds a table without lines: readable in a terminal, splittable in a pipe, never cut there.
#[must_use]
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| safe(cell).replace('\n', " ")).collect::<Vec<_>>());
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
