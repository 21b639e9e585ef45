//! Guards the repository's own rules: module sentences, walls between packages, documented contract, no stray words.

#![expect(clippy::disallowed_methods, reason = "this suite reads the sources")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn files(below: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name == "target" || name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn sources(ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), ending, &mut found);
    assert!(!found.is_empty(), "there are no {ending} files below {}", root().display());
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).expect("text"))).collect()
}

fn inside(path: &Path, folder: &str) -> bool {
    path.strip_prefix(root()).is_ok_and(|path| path.starts_with(folder))
}

#[test]
fn every_file_opens_with_a_sentence() {
    let silent: Vec<_> =
        sources(".rs").into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(p, _)| p).collect();
    assert!(silent.is_empty(), "files without a `//!` sentence at their top: {silent:?}");
}

#[test]
fn no_file_outgrows_its_reader() {
    // 500 lines are a habit, not a law: past this bound a file has a second reason to change.
    const LINES_MAX: usize = 650;
    let long: Vec<_> =
        sources(".rs").into_iter().filter(|(_, text)| text.lines().count() > LINES_MAX).map(|(p, _)| p).collect();
    assert!(long.is_empty(), "files over {LINES_MAX} lines: {long:?}");
}

#[test]
fn the_root_library_knows_neither_runtime_nor_database_nor_bus() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let own = manifest.split("[package]").nth(1).expect("a root package");
    for banned in ["tokio", "rusqlite", "zbus", "reqwest", "rustls"] {
        assert!(!own.lines().any(|line| line.starts_with(banned)), "the root package depends on {banned}");
    }
}

#[test]
fn the_engine_knows_neither_wire_nor_host() {
    for (path, text) in sources(".rs").into_iter().filter(|(p, _)| inside(p, "src/engine") || inside(p, "src/model")) {
        for banned in ["crate::wire", "crate::convert", "std::fs", "std::net", "Timestamp::now", "Instant::now"] {
            assert!(!text.contains(banned), "{} names {banned}", path.display());
        }
    }
}

#[test]
fn agent_and_client_never_import_each_other() {
    for (path, text) in sources(".rs") {
        assert!(!(inside(&path, "agent/src") && text.contains("rbctl::")), "{}", path.display());
        assert!(!(inside(&path, "ctl/src") && text.contains("rollback_agent::")), "{}", path.display());
    }
}

#[test]
fn only_translators_see_the_wire() {
    for (path, text) in sources(".rs").into_iter().filter(|(p, _)| inside(p, "agent/src") || inside(p, "ctl/src")) {
        if inside(&path, "agent/src/rpc") || inside(&path, "ctl/src/fleet") || inside(&path, "ctl/src/error.rs") {
            continue;
        }
        // The client's commands build requests and read replies; everything else works on the model.
        if inside(&path, "ctl/src/commands") || inside(&path, "ctl/src/answers") {
            continue;
        }
        assert!(!text.contains("wire::v1"), "{} sees protobuf types", path.display());
    }
}

#[test]
fn every_message_field_and_method_of_the_contract_is_commented() {
    for (path, text) in sources(".proto") {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let declares = line.starts_with("message ")
                || line.starts_with("enum ")
                || line.starts_with("rpc ")
                || line.starts_with("service ")
                || (line.ends_with(';') && line.contains(" = ") && !line.starts_with("syntax"));
            assert!(
                !declares || lines[at - 1].starts_with("//"),
                "{}:{}: `{line}` has no comment",
                path.display(),
                at + 1
            );
        }
    }
}

#[test]
fn every_link_in_the_pages_leads_somewhere() {
    for (path, text) in sources(".md") {
        let here = path.parent().expect("a page lies in a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(here.join(target).exists(), "{} links to {link}", path.display());
        }
    }
}

#[test]
fn the_runbook_knows_every_refusal_and_exit_code() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let runbook = read("docs/operations/runbook.md");
    let model = read("src/model/refusal.rs");
    let codes = model.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next());
    let missing: Vec<&str> = codes.filter(|code| !runbook.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "the runbook does not say what to do about {missing:?}");
    for (code, _) in rbctl::error::EXIT_CODES {
        assert!(runbook.contains(&format!("\n| {code} |")), "the runbook does not have exit code {code}");
    }
}

#[test]
fn every_message_of_the_catalog_is_one_of_the_agents_and_the_other_way_round() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let catalog = read("systemd/rollback.catalog");
    let explained: BTreeSet<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let fields = read("agent/src/audit/fields.rs");
    let is_id = |text: &&str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let sent: BTreeSet<&str> = fields.split('"').filter(is_id).collect();
    assert!(!sent.is_empty());
    assert_eq!(explained, sent);
}

#[test]
fn the_agents_page_has_every_option_and_variable() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let (program, page) = (read("agent/src/main.rs"), read("systemd/man/rb-agent.8"));
    let options: Vec<&str> = program.split("#[arg(").skip(1).collect();
    assert!(!options.is_empty());
    for option in options {
        let (attribute, field) = option.split_once(")]").expect("an attribute ends");
        let name = field.trim().split(':').next().expect("a field has a name");
        assert!(page.contains(&format!("\\-\\-{name}")), "rb-agent.8 does not have --{name}");
        for variable in attribute.split('"').filter(|text| text.starts_with("ROLLBACK_")) {
            assert!(page.contains(variable), "rb-agent.8 does not have {variable}");
        }
    }
}

#[test]
fn the_page_of_the_configuration_has_every_key() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect(path);
    let (table, page) = (read("docs/operations/configuration.md"), read("systemd/man/rb-agent.toml.5"));
    let words: BTreeSet<&str> = page.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    // The rows of the tables of keys: `| `key` | type | …`, where a key may stand below another one.
    let keys = table.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split('`').next());
    let keys: Vec<&str> = keys.filter(|key| !key.contains('/') && !key.ends_with(".toml")).collect();
    assert!(keys.len() > 20, "{keys:?}");
    for part in keys.iter().flat_map(|key| key.split(['.', '[', ']'])).filter(|part| !part.is_empty() && *part != "…")
    {
        assert!(words.contains(part), "rb-agent.toml.5 does not have `{part}`");
    }
}
