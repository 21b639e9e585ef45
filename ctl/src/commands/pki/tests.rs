//! `rbctl pki` as people type it.

#![expect(clippy::disallowed_methods, reason = "tests own their directories")]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use clap::{CommandFactory as _, Parser};
use jiff::SignedDuration;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, GeneralName, X509Certificate};

use super::*;
use crate::pki::authority::serial_text;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    pki: PkiArgs,
}

struct Desk {
    directory: tempfile::TempDir,
    now: Timestamp,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            directory: tempfile::tempdir().expect("a directory"),
            now: "2026-11-27T12:00:00Z".parse().expect("a time"),
        };
        desk.run(&["init", "--domain", "example"]).expect("a fresh directory");
        desk
    }

    fn run(&self, words: &[&str]) -> Result<PkiAnswer, PkiError> {
        let directory = self.directory.path().join("pki");
        let start = ["pki", "--dir", directory.to_str().expect("UTF-8")];
        let cli = Cli::try_parse_from(start.iter().chain(words)).expect("valid arguments");
        run(cli.pki, self.now)
    }

    fn issued(&self, words: &[&str]) -> Issued {
        match self.run(words).expect("it is issued") {
            PkiAnswer::Issued(issued) => issued,
            other => panic!("{other:?}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("pki").join(name)
    }

    fn revoked(&self) -> Vec<String> {
        let pem = std::fs::read(self.path("crl.pem")).expect("the list");
        let der = CertificateRevocationListDer::from_pem_slice(&pem).expect("PEM");
        let (_, list) = CertificateRevocationList::from_der(&der).expect("a list");
        list.iter_revoked_certificates().map(|entry| serial_text(entry.raw_serial())).collect()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it exists").mode() & 0o777
}

fn der(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

const ALICE: [&str; 9] =
    ["issue", "operator", "alice", "--role", "viewer", "--role", "operator", "--environment", "prod"];

#[test]
fn arguments_are_consistent() {
    Cli::command().debug_assert();
    for words in [
        &["pki", "issue", "operator", "alice", "--environment", "prod"][..],
        &["pki", "issue", "operator", "alice", "--role", "root", "--environment", "prod"],
        &["pki", "issue", "operator", "alice", "--role", "viewer"],
        &["pki", "issue", "agent", "web01", "--address", "not a name"],
        &["pki", "issue", "agent", "../web01"],
        &["pki", "issue", "agent", "web01", "--days", "0"],
        &["pki", "renew"],
        &["pki", "renew", "alice", "--revocations"],
        &["pki", "init"],
    ] {
        assert!(Cli::try_parse_from(words).is_err(), "{words:?}");
    }
}

#[test]
fn keys_are_closed_and_nothing_is_overwritten() {
    let desk = Desk::new();
    let web = desk.issued(&["issue", "agent", "web01"]);
    desk.issued(&ALICE);
    for key in ["ca.key", "index.json", "agents/web01.key", "operators/alice.key"] {
        assert_eq!(mode(&desk.path(key)), 0o600, "{key}");
    }
    for directory in ["", "agents", "operators"] {
        assert_eq!(mode(&desk.path(directory)), 0o700, "{directory:?}");
    }
    let before = ["ca.key", "ca.crt", "agents/web01.key"].map(|name| std::fs::read(desk.path(name)).expect("a file"));
    assert!(matches!(desk.run(&["init", "--domain", "example"]), Err(PkiError::Exists(_))));
    assert!(matches!(desk.run(&["issue", "agent", "web01"]), Err(PkiError::Exists(_))));
    std::fs::remove_file(&web.certificate).expect("it is ours");
    assert!(matches!(desk.run(&["issue", "agent", "web01"]), Err(PkiError::Exists(_))), "the key is still there");
    let after = ["ca.key", "ca.crt", "agents/web01.key"].map(|name| std::fs::read(desk.path(name)).expect("a file"));
    assert!(before == after);
}

#[test]
fn agents_are_servers_and_operators_are_clients_and_neither_signs() {
    let desk = Desk::new();
    let web = desk.issued(&["issue", "agent", "web01", "--address", "192.0.2.1", "--address", "web01.example.org"]);
    let alice = desk.issued(&ALICE);
    assert_eq!(web.view.identity.as_deref(), Some("rollback://example/agent/web01"));
    let identity = "rollback://example/operator/alice?roles=viewer,operator&environments=prod";
    assert_eq!(alice.view.identity.as_deref(), Some(identity));
    for (issued, server, names) in [(&web, true, 4), (&alice, false, 1)] {
        let der = der(&issued.certificate);
        let (_, parsed) = X509Certificate::from_der(&der).expect("a certificate");
        let usage = parsed.extended_key_usage().expect("parsable").expect("present").value;
        assert_eq!((usage.server_auth, usage.client_auth, usage.any), (server, !server, false));
        assert!(!parsed.is_ca() && parsed.raw_serial().len() == 16 && parsed.raw_serial()[0] < 0x80);
        let alternative = parsed.subject_alternative_name().expect("parsable").expect("present");
        assert_eq!(alternative.value.general_names.len(), names);
    }
    assert_eq!(web.view.ends, desk.now + SignedDuration::from_hours(397 * 24));
    assert_eq!(alice.view.ends, desk.now + SignedDuration::from_hours(30 * 24));
}

#[test]
fn signing_request_brings_its_key_and_nothing_else() {
    let desk = Desk::new();
    let key = KeyPair::generate().expect("a key");
    let mut wish = CertificateParams::default();
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let uri = "rollback://example/operator/root?roles=break-glass&environments=*";
    wish.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    let request = wish.serialize_request(&key).expect("a request").pem().expect("PEM");
    let file = desk.path("wish.csr");
    std::fs::write(&file, request).expect("room");
    let words = ["--csr", file.to_str().expect("UTF-8")];
    let issued = desk.issued(&[&ALICE[..], &words].concat());
    assert_eq!(issued.key, None);
    let der = der(&issued.certificate);
    let (_, parsed) = X509Certificate::from_der(&der).expect("a certificate");
    assert!(!parsed.is_ca());
    assert!(!parsed.key_usage().expect("parsable").expect("present").value.key_cert_sign());
    let names = &parsed.subject_alternative_name().expect("parsable").expect("present").value.general_names;
    let expected = "rollback://example/operator/alice?roles=viewer,operator&environments=prod";
    assert_eq!(names[..], [GeneralName::URI(expected)]);
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(issued.view.ends, desk.now + SignedDuration::from_hours(30 * 24));
}

#[test]
fn renewed_certificate_has_the_same_identity_and_a_new_key() {
    let mut desk = Desk::new();
    let first = desk.issued(&["issue", "agent", "web01", "--address", "192.0.2.1"]);
    let key = std::fs::read(desk.path("agents/web01.key")).expect("a key");
    desk.now += SignedDuration::from_hours(24 * 390);
    let second = desk.issued(&["renew", "web01"]);
    assert_eq!(first.view.identity, second.view.identity);
    assert!(first.view.serial != second.view.serial && first.view.ends < second.view.ends);
    assert!(key != std::fs::read(desk.path("agents/web01.key")).expect("a key"));
    let der = der(&second.certificate);
    let (_, parsed) = X509Certificate::from_der(&der).expect("a certificate");
    let names = &parsed.subject_alternative_name().expect("parsable").expect("present").value.general_names;
    assert!(names.contains(&GeneralName::IPAddress(&[192, 0, 2, 1])));
}

#[test]
fn revocation_finds_names_serial_numbers_and_files() {
    let desk = Desk::new();
    let alice = desk.issued(&ALICE);
    let again = desk.issued(&["renew", "operator/alice"]);
    let web = desk.issued(&["issue", "agent", "web01"]);
    let db = desk.issued(&["issue", "agent", "db01"]);
    assert_eq!(desk.revoked(), Vec::<String>::new());
    desk.run(&["revoke", "alice"]).expect("a name");
    assert_eq!(desk.revoked(), [alice.view.serial.clone(), again.view.serial.clone()], "both certificates of the name");
    let colons = web.view.serial.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_uppercase());
    desk.run(&["revoke", &colons.collect::<Vec<_>>().join(":")]).expect("a serial number as openssl prints it");
    desk.run(&["revoke", db.certificate.to_str().expect("UTF-8")]).expect("a file");
    assert_eq!(desk.revoked().len(), 4);
    desk.run(&["revoke", "alice"]).expect("again is harmless");
    assert_eq!(desk.revoked().len(), 4);
    assert!(matches!(desk.run(&["revoke", "mallory"]), Err(PkiError::Unknown(_))));
    let PkiAnswer::Shown { certificates } =
        desk.run(&["show", web.certificate.to_str().expect("UTF-8")]).expect("a file")
    else {
        panic!("a file was asked for");
    };
    assert_eq!(certificates[0].status, CertificateStatus::Revoked);
}

#[test]
fn name_of_an_agent_and_an_operator_must_be_told_apart() {
    let desk = Desk::new();
    desk.issued(&["issue", "agent", "alice"]);
    desk.issued(&ALICE);
    assert!(matches!(desk.run(&["revoke", "alice"]), Err(PkiError::Ambiguous(_))));
    desk.run(&["revoke", "agent/alice"]).expect("one of them");
    assert_eq!(desk.revoked().len(), 1);
}

#[test]
fn list_is_signed_anew_with_a_new_number_and_end() {
    let mut desk = Desk::new();
    desk.now += SignedDuration::from_hours(24);
    let PkiAnswer::ListSigned { ends } =
        desk.run(&["renew", "--revocations", "--crl-days", "7"]).expect("it is signed")
    else {
        panic!("the list was asked for");
    };
    assert_eq!(ends, desk.now + SignedDuration::from_hours(7 * 24));
    let pem = std::fs::read(desk.path("crl.pem")).expect("the list");
    let der = CertificateRevocationListDer::from_pem_slice(&pem).expect("PEM");
    let (_, list) = CertificateRevocationList::from_der(&der).expect("a list");
    assert_eq!(list.next_update().expect("an end").timestamp(), ends.as_second());
    assert_eq!(list.crl_number().expect("a number").to_string(), "2");
}

#[test]
fn no_certificate_outlives_its_authority() {
    let mut desk = Desk::new();
    desk.now += SignedDuration::from_hours(24 * 3_600);
    let web = desk.issued(&["issue", "agent", "web01"]);
    assert_eq!(web.view.ends, desk.now + SignedDuration::from_hours(52 * 24));
    desk.now += SignedDuration::from_hours(24 * 53);
    assert!(matches!(desk.run(&["issue", "agent", "web02"]), Err(PkiError::Ended(_))));
}

#[test]
fn open_key_and_damaged_index_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = Desk::new();
    let key = desk.path("ca.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).expect("it is ours");
    assert!(matches!(desk.run(&["issue", "agent", "web01"]), Err(PkiError::File { attempt: "read the key", .. })));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let held = Pki::open(&desk.path(""), 1, desk.now).expect("it is free");
    assert!(matches!(desk.run(&["issue", "agent", "web01"]), Err(PkiError::Busy(_))));
    drop(held);
    std::fs::write(desk.path("index.json"), "{").expect("room");
    assert!(matches!(desk.run(&["show"]), Err(PkiError::Index { .. })));
}

#[test]
fn answers_are_readable_and_have_data() {
    let desk = Desk::new();
    let issued = desk.run(&ALICE).expect("it is issued");
    assert!(
        issued.to_string().starts_with("rollback://example/operator/alice?roles=viewer,operator&environments=prod\n")
    );
    let data = serde_json::to_value(&issued).expect("it serializes");
    assert_eq!(data["answer"], "issued");
    assert_eq!(data["status"], "valid");
    let listed = serde_json::to_value(desk.run(&["show"]).expect("a list")).expect("it serializes");
    assert_eq!(listed["certificates"][0]["status"], "valid");
    assert_eq!(listed["domain"], "example");
}
