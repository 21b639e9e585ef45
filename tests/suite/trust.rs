//! Strangers, impostors and the revoked stay outside; operators and root get in; over real sockets and real TLS.

#![expect(clippy::disallowed_methods, reason = "tests have a clock and files")]

#[path = "trust/bed.rs"]
mod bed;

use std::time::Duration;

use bed::{Bed, HOST, TestClock, target};
use jiff::{SignedDuration, Timestamp};
use rbctl::fleet::connect::{
    ConnectError, Deadlines, Target, Trust, TrustFiles, client, connect, explain_status, probe,
};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rollback::model::identity::Role;
use rollback::wire::v1::{RollbackRequest, StatusRequest, WatchRequest};
use rollback_agent::rpc::server::{CONNECTIONS_PER_PEER_MAX, DRAIN_LIMIT, MESSAGE_BYTES_MAX};
use rollback_agent::rpc::tls::{HotTls, Reloaded, TlsError};
use rollback_tests::pki::{Odd, PairFiles, TestAuthority, set_mode};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn authority() -> TestAuthority {
    TestAuthority::new(Timestamp::now())
}

/// Asks the agent for its status; the bed answers with the caller's identity.
async fn who_am_i(bed: &Bed, authority: &TestAuthority, pair: &PairFiles) -> Result<String, ConnectError> {
    let trust = authority.trust(pair);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await?;
    let reply = client(channel).status(StatusRequest::default()).await.expect("the status");
    Ok(reply.into_inner().version)
}

#[tokio::test]
async fn operator_is_served_under_its_own_name() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let bed = Bed::start(authority.agent(HOST), TestClock::new());
    let name = who_am_i(&bed, &authority, &alice).await.expect("a connection");
    assert_eq!(name, "rollback://example/operator/alice?roles=viewer&environments=*");
}

#[tokio::test]
async fn strangers_are_refused_with_the_reason_and_reported() {
    let mut authority = authority();
    let other = TestAuthority::new(authority.now);
    let agent = authority.agent(HOST);
    let agent_leaf = PairFiles { certificate: agent.certificate.clone(), key: agent.key.clone() };
    let mut bed = Bed::start(agent, TestClock::new());
    let default = Odd::default;
    let cases = [
        ("its own authority", authority.odd("self", &Odd { self_signed: true, ..default() }), "not from an authority"),
        ("another authority", other.odd("other", &default()), "not from an authority"),
        ("expired", authority.odd("expired", &Odd { ends: -SignedDuration::from_secs(9), ..default() }), "expired"),
        (
            "not yet valid",
            authority.odd("early", &Odd { begins: SignedDuration::from_mins(9), ..default() }),
            "not valid yet",
        ),
        ("for servers", authority.odd("server", &Odd { usages: &[ServerAuth], ..default() }), "not for clients"),
        ("an agent's leaf", agent_leaf, "not for clients"),
    ];
    for (what, pair, reason) in cases {
        match who_am_i(&bed, &authority, &pair).await {
            Err(ConnectError::Refused { why, .. }) => assert!(why.contains(reason), "{what}: {why}"),
            other => panic!("{what}: {other:?}"),
        }
        let denied = bed.denied().await;
        assert!(denied.actor.is_empty() && denied.peer.starts_with("127.0.0.1:"), "{what}: {denied:?}");
    }
}

#[tokio::test]
async fn peer_without_a_certificate_is_refused_and_reported() {
    let mut authority = authority();
    let mut bed = Bed::start(authority.agent(HOST), TestClock::new());
    let error = bed.shake_hands_anonymously(&authority).await.expect_err("no certificate, no entry");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert!(bed.denied().await.why.contains("no certificates"));
}

#[tokio::test]
async fn certificates_that_name_nobody_here_are_turned_away() {
    let mut authority = authority();
    let mut bed = Bed::start(authority.agent(HOST), TestClock::new());
    let uri = "rollback://example/operator/odd?roles=viewer&environments=*";
    let cases: [(&[&str], &str); 4] = [
        (&["rollback://elsewhere/operator/odd?roles=viewer&environments=*"], "domain"),
        (&[], "0 `rollback://` URIs"),
        (&[uri, "rollback://example/operator/odd?roles=admin&environments=*"], "2 `rollback://` URIs"),
        (&["rollback://example/operator/odd?roles=root&environments=*"], "no role"),
    ];
    for (uris, reason) in cases {
        let pair = authority.odd("nobody", &Odd { uris, ..Odd::default() });
        let result = who_am_i(&bed, &authority, &pair).await;
        assert!(matches!(result, Err(ConnectError::Closed(_))), "{uris:?}: {result:?}");
        let denied = bed.denied().await;
        assert!(denied.why.contains(reason), "{denied:?}");
    }
}

#[tokio::test]
async fn agent_with_a_client_certificate_may_call_nothing() {
    let mut authority = authority();
    let mut bed = Bed::start(authority.agent(HOST), TestClock::new());
    let uris = &["rollback://example/agent/web02"][..];
    let pair = authority.odd("web02", &Odd { uris, usages: &[ClientAuth, ServerAuth], ..Odd::default() });
    let trust = authority.trust(&pair);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await.expect("the chain is good");
    let status = client(channel).status(StatusRequest::default()).await.expect_err("agents call nothing");
    assert_eq!(status.code(), Code::PermissionDenied);
    let denied = bed.denied().await;
    assert_eq!((denied.actor.as_str(), denied.method.as_deref()), (uris[0], Some("/rollback.v1.Agent/Status")));
}

#[tokio::test]
async fn common_name_gives_no_right() {
    let mut authority = authority();
    let mut bed = Bed::start(authority.agent(HOST), TestClock::new());
    let uris = &["rollback://example/operator/mallory?roles=viewer&environments=*"][..];
    let pair = authority.odd("mallory", &Odd { uris, common_name: "admin", ..Odd::default() });
    let trust = authority.trust(&pair);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await.expect("a connection");
    let mut agent = client(channel);
    agent.status(StatusRequest::default()).await.expect("a viewer sees");
    let status = agent.rollback(RollbackRequest::default()).await.expect_err("a viewer changes nothing");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(explain_status(&status).contains("operator or admin or break-glass"), "{status}");
    assert_eq!(bed.denied().await.actor, uris[0]);
}

#[tokio::test]
async fn revocation_ends_open_connections_and_leaves_others_alone() {
    let mut authority = authority();
    let (mallory, alice) = (authority.operator("mallory", Role::Admin), authority.operator("alice", Role::Viewer));
    let bed = Bed::start(authority.agent(HOST), TestClock::new());
    let trust = authority.trust(&mallory);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await.expect("a connection");
    let mut agent = client(channel);
    let mut watch = agent.watch(WatchRequest::default()).await.expect("a stream").into_inner();

    authority.pki.revoke("mallory", authority.now).expect("a known name");
    assert_eq!(bed.tls.reload().expect("a good list"), Reloaded::Replaced);

    watch.message().await.expect_err("the open stream ends");
    agent.status(StatusRequest::default()).await.expect_err("no further call");
    match who_am_i(&bed, &authority, &mallory).await {
        Err(ConnectError::Refused { why, .. }) => assert!(why.contains("revoked"), "{why}"),
        other => panic!("{other:?}"),
    }
    who_am_i(&bed, &authority, &alice).await.expect("others go on");
}

#[tokio::test]
async fn certificate_that_expires_on_an_open_connection_is_refused_at_the_next_call() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let clock = TestClock::new();
    let bed = Bed::start(authority.agent(HOST), clock.clone());
    let trust = authority.trust(&alice);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await.expect("a connection");
    let mut agent = client(channel);
    agent.status(StatusRequest::default()).await.expect("it is valid");
    clock.turn(DAY * 301);
    let status = agent.status(StatusRequest::default()).await.expect_err("it is over");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("ended at"), "{status}");
}

#[tokio::test]
async fn host_that_answers_as_another_is_refused() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let bed = Bed::start(authority.agent(HOST), TestClock::new());
    let trust = authority.trust(&alice);
    let error = connect(&target("web02", bed.address), Some(&trust), Deadlines::default()).await.expect_err("web01");
    assert!(matches!(error, ConnectError::SomebodyElse { .. }), "{error:?}");
    assert!(error.to_string().contains("rollback://example/agent/web01"), "{error}");
}

#[tokio::test]
async fn agent_of_another_authority_or_past_its_time_is_refused() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let mut other = TestAuthority::new(authority.now);
    let bed = Bed::start(other.agent(HOST), TestClock::new());
    let error = who_am_i(&bed, &authority, &alice).await.expect_err("an unknown authority");
    assert!(matches!(error, ConnectError::UnknownAuthority(_)), "{error:?}");

    let mut old = TestAuthority::new(authority.now - DAY * 500);
    let bed = Bed::start(old.agent(HOST), TestClock::new());
    assert!(bed.tls.problems().iter().any(|problem| problem.contains("ended at")), "{:?}", bed.tls.problems());
    old.now = authority.now;
    let bob = old.operator("bob", Role::Viewer);
    let error = who_am_i(&bed, &old, &bob).await.expect_err("the agent's certificate is over");
    assert!(matches!(error, ConnectError::Time { what: "ended at", .. }), "{error:?}");
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn new_keys_are_taken_up_and_bad_ones_refused_without_a_restart() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let files = authority.agent(HOST);
    let bed = Bed::start(files.clone(), TestClock::new());
    let before = bed.tls.current().certificate_ends();
    assert_eq!(bed.tls.reload().expect("nothing is wrong"), Reloaded::Unchanged);

    authority.pki.renew("agent/web01", Some(200), None, authority.now).expect("a known name");
    assert_eq!(bed.tls.reload().expect("a good set"), Reloaded::Replaced);
    assert!(bed.tls.current().certificate_ends() < before);
    who_am_i(&bed, &authority, &alice).await.expect("the new certificate serves");

    let good = std::fs::read(&files.key).expect("the key");
    std::fs::write(&files.key, std::fs::read(&alice.key).expect("a key")).expect("room");
    assert!(matches!(bed.tls.reload(), Err(TlsError::Unusable { .. })));
    assert!(bed.tls.problems().iter().any(|problem| problem.contains("stay in force")));
    who_am_i(&bed, &authority, &alice).await.expect("the set before serves");
    std::fs::write(&files.key, good).expect("room");
    assert_eq!(bed.tls.reload().expect("as before"), Reloaded::Unchanged);
    assert!(!bed.tls.problems().iter().any(|problem| problem.contains("stay in force")));
}

#[tokio::test]
async fn two_authorities_are_trusted_while_one_follows_the_other() {
    let (mut authority, mut next) = (authority(), authority());
    let (alice, bob) = (authority.operator("alice", Role::Viewer), next.operator("bob", Role::Viewer));
    let mut files = authority.agent(HOST);
    files.authority = authority.path("both.crt");
    let both = [&authority, &next].map(|of| std::fs::read(of.path("ca.crt")).expect("a certificate")).concat();
    std::fs::write(&files.authority, both).expect("room");
    let bed = Bed::start(files, TestClock::new());
    who_am_i(&bed, &authority, &alice).await.expect("the old authority's operator");
    let mut trust = TrustFiles {
        domain: "example".parse().expect("a name"),
        authority: authority.path("ca.crt"),
        certificate: bob.certificate,
        key: bob.key,
    };
    let bob = Trust::load(&trust, next.now).expect("good files");
    probe(&bed.target(), Some(&bob), Deadlines::default()).await.expect("the new authority's operator");
    assert!(bed.tls.problems().iter().any(|problem| problem.contains("1 of 2 authorities")));
    trust.authority = next.path("ca.crt");
    let bob = Trust::load(&trust, next.now).expect("good files");
    let error = probe(&bed.target(), Some(&bob), Deadlines::default()).await.expect_err("the agent has an old one");
    assert!(matches!(error, ConnectError::UnknownAuthority(_)), "{error:?}");
}

#[tokio::test]
async fn list_past_its_end_stays_in_force_and_is_announced() {
    let mut authority = authority();
    let (mallory, alice) = (authority.operator("mallory", Role::Admin), authority.operator("alice", Role::Viewer));
    authority.pki.revoke("mallory", authority.now).expect("a known name");
    let clock = TestClock::new();
    let bed = Bed::start(authority.agent(HOST), clock.clone());
    clock.turn(DAY * 40);
    let error = who_am_i(&bed, &authority, &mallory).await.expect_err("revoked");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    who_am_i(&bed, &authority, &alice).await.expect("an old list locks nobody out");
    assert!(bed.tls.problems().iter().any(|problem| problem.contains("revocation list")), "{:?}", bed.tls.problems());
}

#[tokio::test]
async fn key_that_others_can_read_is_refused_by_both_sides() {
    let mut authority = authority();
    let files = authority.agent(HOST);
    for mode in [0o640, 0o604, 0o660, 0o644] {
        set_mode(&files.key, mode);
        let result = HotTls::open(files.clone(), HOST.parse().expect("a name"), TestClock::new().shared());
        assert!(matches!(result, Err(TlsError::KeyMode { .. })), "{mode:o}");
    }
    let alice = authority.operator("alice", Role::Viewer);
    set_mode(&alice.key, 0o640);
    let trust = TrustFiles {
        domain: "example".parse().expect("a name"),
        authority: authority.path("ca.crt"),
        certificate: alice.certificate,
        key: alice.key,
    };
    Trust::load(&trust, authority.now).expect_err("an open key");
}

#[tokio::test]
async fn agent_does_not_start_as_somebody_else_or_by_a_foreign_list() {
    let mut authority = authority();
    let other = TestAuthority::new(authority.now);
    let files = authority.agent(HOST);
    let open = |files: &rollback_agent::config::Tls, host: &str| {
        HotTls::open(files.clone(), host.parse().expect("a name"), TestClock::new().shared())
    };
    assert!(matches!(open(&files, "web02"), Err(TlsError::Somebody { .. })));
    let foreign = rollback_agent::config::Tls { authority: other.path("ca.crt"), ..files.clone() };
    assert!(matches!(open(&foreign, HOST), Err(TlsError::Unusable { .. })));
    std::fs::write(authority.path("crl.pem"), "").expect("room");
    assert!(matches!(open(&files, HOST), Err(TlsError::Empty { .. })));
}

#[tokio::test]
async fn local_socket_serves_root_when_every_certificate_has_expired() {
    let mut authority = authority();
    let clock = TestClock::new();
    let bed = Bed::start(authority.agent(HOST), clock.clone());
    clock.turn(DAY * 5_000);
    let channel = connect(&bed.local(), None, Deadlines::default()).await.expect("the socket of this host");
    let mut agent = client(channel);
    let reply = agent.status(StatusRequest::default()).await.expect("the status").into_inner();
    assert_eq!(reply.version, format!("local:uid={}", nix::unistd::geteuid()));
    let status = agent.rollback(RollbackRequest::default()).await.expect_err("the bed has no rollback");
    assert_eq!(status.code(), Code::Unimplemented, "the table lets the local caller through: {status}");
}

#[tokio::test]
async fn unknown_methods_are_answered_and_never_run() {
    let mut authority = authority();
    let mut bed = Bed::start(authority.agent(HOST), TestClock::new());
    let channel = connect(&bed.local(), None, Deadlines::default()).await.expect("the socket of this host");
    let status = bed::call(channel, "/rollback.v1.Agent/Forget").await.expect_err("there is no such method");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(bed.denied().await.method.as_deref(), Some("/rollback.v1.Agent/Forget"));
}

#[tokio::test]
async fn one_address_cannot_take_all_places() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let mut bed = Bed::start(authority.agent(HOST), TestClock::new());
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_PER_PEER_MAX {
        idle.push(TcpStream::connect(bed.address).await.expect("a connection"));
    }
    let mut refused = TcpStream::connect(bed.address).await.expect("the kernel accepts");
    assert_eq!(refused.read(&mut [0]).await.expect("a clean end"), 0);
    assert!(bed.denied().await.why.contains("too many"));
    drop(idle);
    for _ in 0..CONNECTIONS_PER_PEER_MAX {
        bed.denied().await;
    }
    who_am_i(&bed, &authority, &alice).await.expect("the places are free again");
}

#[tokio::test]
async fn hosts_that_do_not_answer_are_told_apart() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let trust = authority.trust(&alice);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let short = Deadlines { handshake: Duration::from_millis(100), ..Deadlines::default() };
    let error = probe(&target(HOST, address), Some(&trust), short).await.expect_err("it is mute");
    assert!(matches!(error, ConnectError::Slow { what: "shake hands", .. }), "{error:?}");
    drop(listener);
    let error = probe(&target(HOST, address), Some(&trust), short).await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let socket = authority.path("none.sock");
    let error = probe(&Target::Local { socket }, None, short).await.expect_err("there is no agent");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = probe(&target(HOST, address), None, short).await.expect_err("no certificate");
    assert!(matches!(error, ConnectError::NoTrust(_)), "{error:?}");
}

#[tokio::test]
async fn stopping_agent_waits_for_no_endless_stream() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let bed = Bed::start(authority.agent(HOST), TestClock::new());
    let trust = authority.trust(&alice);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await.expect("a connection");
    let mut agent = client(channel);
    let mut watch = agent.watch(WatchRequest::default()).await.expect("a stream").into_inner();
    let end = tokio::time::timeout(DRAIN_LIMIT * 2, bed.stop());
    end.await.expect("the stream holds nothing up");
    let lost = watch.message().await.expect_err("the stream has ended");
    assert!(explain_status(&lost).contains("connection"), "{}", explain_status(&lost));
    let status = agent.status(StatusRequest::default()).await.expect_err("the agent is gone");
    assert!(explain_status(&status).contains("cannot reach `web01`"), "{}", explain_status(&status));
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let mut authority = authority();
    let alice = authority.operator("alice", Role::Viewer);
    let bed = Bed::start(authority.agent(HOST), TestClock::new());
    let trust = authority.trust(&alice);
    let channel = connect(&bed.target(), Some(&trust), Deadlines::default()).await.expect("a connection");
    let mut agent = client(channel.clone()).max_encoding_message_size(usize::MAX);
    let component = "a".repeat(MESSAGE_BYTES_MAX + 1);
    let selector = Some(rollback::wire::v1::ComponentSelector { component, environment: String::new() });
    let status = agent.status(StatusRequest { selector }).await.expect_err("more than a message may have");
    assert_eq!(status.code(), Code::OutOfRange);
    let mut request = tonic::Request::new(StatusRequest::default());
    request.metadata_mut().insert("long", "a".repeat(32 * 1024).parse().expect("ASCII"));
    agent.status(request).await.expect_err("more than headers may have");
    client(channel).status(StatusRequest::default()).await.expect("the connection goes on");
}
