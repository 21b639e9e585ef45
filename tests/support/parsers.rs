//! Every parser of outside input as a function of bytes, with what must hold of whatever it accepts.
//!
//! The suite `parsers` feeds them arbitrary and mutated bytes, the targets in `fuzz/` everything that a fuzzer finds.
//! None may panic. Each tells whether the bytes were accepted, so that a seed that no longer is one is noticed.

use std::fmt::Debug;
use std::path::{Component as Part, Path};
use std::str::FromStr;

use rbctl::commands::plan::PlanFile;
use rollback::convert::ConvertError;
use rollback::model::identity::Identity;
use rollback::model::ids::{
    ComponentName, Environment, HostName, NAME_BYTES_MAX, OperationId, ProbeName, ReleaseId, UnitName, Version,
};
use rollback::model::offer::{Offer, OfferBuilder, Offered, OfferedKind};
use rollback::model::operation::{Operation, Request};
use rollback::model::plan::Plan;
use rollback::model::text::is_unsafe;
use rollback::rules::selector::Selector;
use rollback::rules::{exposition, metric};
use rollback::wire::v1;
use rollback_agent::config::{self, Component, ConfigErrors};
use rollback_agent::release::parse_manifest;
use rollback_agent::rpc::certificate::Certificate;
use rustls::pki_types::CertificateDer;

/// A parser with its invariants.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name: that of its function, of its file in `fuzz/fuzz_targets`, and of its folder of seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("agent_file", agent_file),
    ("component_file", component_file),
    ("manifest", manifest),
    ("plan_file", plan_file),
    ("client_file", client_file),
    ("name", name),
    ("identity", identity),
    ("certificate", certificate),
    ("message", message),
    ("exposition", exposition),
    ("selector", selector),
    ("offer", offer),
    ("archive", archive),
];

/// `agent.toml`.
pub fn agent_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match config::parse_agent(text, Path::new("agent.toml")) {
        Ok(agent) => {
            assert_eq!(agent.listen.is_some(), agent.tls.is_some(), "operators are served over TLS alone");
            true
        }
        Err(errors) => refused(&errors),
    }
}

/// A file of `components.d`.
pub fn component_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match config::parse_component(text, Path::new("web.toml")) {
        Ok(component) => {
            stays_below_its_root(&component);
            true
        }
        Err(errors) => refused(&errors),
    }
}

fn stays_below_its_root(component: &Component) {
    let plain = |path: &Path| path.components().all(|part| matches!(part, Part::Normal(_)));
    assert!(component.root.is_absolute() && component.root.parent().is_some(), "{:?}", component.root);
    assert!(!component.root.components().any(|part| part == Part::ParentDir), "{:?}", component.root);
    assert!(plain(&component.releases.directory), "{:?}", component.releases.directory);
    assert!(plain(Path::new(&component.current)) && !component.current.contains('/'), "{:?}", component.current);
    assert!(!component.units.is_empty());
    for file in component.configuration.iter().flat_map(|kept| &kept.files) {
        assert!(file.from.is_absolute() || plain(&file.from), "{:?}", file.from);
        assert!(plain(Path::new(&file.name)) && !file.name.contains('/'), "{:?}", file.name);
    }
}

/// Every problem is one line that drives no terminal, whatever the file had.
fn refused(errors: &ConfigErrors) -> bool {
    assert!(!errors.problems().is_empty());
    for problem in errors.problems() {
        let line = problem.to_string();
        assert!(!line.chars().any(is_unsafe), "{line:?}");
    }
    false
}

/// A manifest in the state directory.
pub fn manifest(bytes: &[u8]) -> bool {
    let release: ReleaseId = "2.4.0".parse().expect("a name");
    let Ok(manifest) = parse_manifest(bytes, &release) else { return false };
    assert_eq!(manifest.id, release);
    let again = serde_json::to_vec(&manifest).expect("a manifest is JSON");
    assert_eq!(parse_manifest(&again, &release), Ok(manifest));
    true
}

/// A file of `rbctl plan --out`, up to the message that the agent would get of it.
pub fn plan_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(file) = PlanFile::parse(text) else { return false };
    for plan in file.plans {
        let sent = v1::Plan::from(plan.clone());
        if let Ok(read) = Plan::try_from(sent) {
            assert_eq!(read, plan, "the agent reads another plan than was saved");
        }
    }
    true
}

/// The configuration file of `rbctl`.
pub fn client_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    rbctl::inventory::parse(text, Path::new("config.toml"), None).is_ok()
}

/// Names and identifiers of every kind.
pub fn name(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let kinds = [
        is_name::<HostName>(text),
        is_name::<ComponentName>(text),
        is_name::<Environment>(text),
        is_name::<ReleaseId>(text),
        is_name::<Version>(text),
        is_name::<ProbeName>(text),
        is_name::<UnitName>(text),
        text.parse::<OperationId>().is_ok(),
    ];
    kinds.contains(&true)
}

fn is_name<T: FromStr + ToString>(text: &str) -> bool {
    let Ok(name) = text.parse::<T>() else { return false };
    assert_eq!(name.to_string(), text);
    assert!(text.len() <= NAME_BYTES_MAX, "{text:?}");
    assert!(text.starts_with(|c: char| c.is_ascii_alphanumeric()), "{text:?}");
    assert!(!text.contains(|c: char| c == '/' || c.is_whitespace() || is_unsafe(c)), "{text:?}");
    true
}

/// The URI in a certificate.
pub fn identity(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(identity) = text.parse::<Identity>() else { return false };
    assert_eq!(identity.to_string(), text, "one identity has one text");
    true
}

/// A certificate, as the peer sends it.
pub fn certificate(bytes: &[u8]) -> bool {
    let der = CertificateDer::from(bytes);
    Certificate::read(&der).is_ok_and(|certificate| !certificate.identity.domain().as_str().is_empty())
}

/// A page of metrics, and what a Prometheus server answers.
pub fn exposition(bytes: &[u8]) -> bool {
    drop(metric::answer(bytes, 0.0));
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(samples) = exposition::samples(text).collect::<Result<Vec<_>, _>>() else { return false };
    for sample in &samples {
        assert!(!sample.name.is_empty() && text.contains(sample.name), "{sample:?}");
        assert!(sample.labels.iter().all(|(name, _)| text.contains(name)), "{sample:?}");
    }
    true
}

/// A selector of the configuration.
pub fn selector(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(selector) = text.parse::<Selector>() else { return false };
    assert_eq!(selector.to_string(), text);
    assert!(text.starts_with(selector.name()));
    true
}

/// Messages from the network: what the model takes of them, it gives back the same.
pub fn message(bytes: &[u8]) -> bool {
    let kinds = [
        translates::<v1::Request, Request>(bytes),
        translates::<v1::Plan, Plan>(bytes),
        translates::<v1::Operation, Operation>(bytes),
    ];
    kinds.contains(&true)
}

fn translates<Wire, Model>(bytes: &[u8]) -> bool
where
    Wire: prost::Message + Default + From<Model>,
    Model: TryFrom<Wire, Error = ConvertError> + Clone + PartialEq + Debug,
{
    let Ok(wire) = Wire::decode(bytes) else { return false };
    let Ok(model) = Model::try_from(wire) else { return false };
    let again = Model::try_from(Wire::from(model.clone()));
    assert_eq!(again, Ok(model));
    true
}

/// Entries that are offered in a push: what is accepted leads nowhere else.
pub fn offer(bytes: &[u8]) -> bool {
    let Ok(wire) = <v1::OfferedEntries as prost::Message>::decode(bytes) else { return false };
    let mut builder = OfferBuilder::default();
    for entry in wire.entries {
        let Ok(entry) = Offered::try_from(entry) else { return false };
        if builder.add(entry).is_err() {
            return false;
        }
    }
    builder.finish().is_ok_and(|offer| stays_inside(&offer))
}

/// An archive that is to be pushed, in any of its forms.
pub fn archive(bytes: &[u8]) -> bool {
    let mut held = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut held, bytes).expect("a write to it");
    rbctl::source::read(held.path(), 0).is_ok_and(|source| stays_inside(&source.offer))
}

fn stays_inside(offer: &Offer) -> bool {
    for entry in offer.entries() {
        let is_plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        assert!(entry.path.is_empty() || entry.path.split(|byte| *byte == b'/').all(is_plain), "{entry:?}");
        assert!(entry.mode <= 0o777, "{entry:?}");
        if let OfferedKind::Link(target) = &entry.kind {
            let up = target.split(|byte| *byte == b'/').filter(|part| *part == b"..").count();
            let depth = entry.path.iter().filter(|byte| **byte == b'/').count();
            assert!(!target.starts_with(b"/") && up <= depth, "{entry:?}");
        }
    }
    true
}
