//! Tests of the probes against sockets and programs of their own: lies, floods, silence, and forks.
#![expect(clippy::disallowed_methods, reason = "the programs under test leave their process ids in files")]

mod rules;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rollback::model::decision::Severity;
use rollback::model::health::{UnitActive, UnitLoad, UnitState, Weight};
use rollback::model::ids::UnitName;
use rollback::model::policy::{Policy, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::clock::SystemClock;
use crate::config::{Backend, ExecProbe, HttpProbe, ReleasesLayout, TcpProbe};
use crate::facts::HostFacts;
use crate::ports::PortError;
use crate::procfs;

/// Longer than anything that is expected to end by itself.
const LIMIT: Duration = Duration::from_secs(20);

/// Units that all stand as told.
struct Standing {
    active: UnitActive,
    /// How often they were started.
    starts: Arc<AtomicU64>,
}

#[async_trait]
impl Units for Standing {
    async fn stop(&self, _: &Component, _: &[UnitName], _: Duration) -> Result<(), PortError> {
        Ok(())
    }
    async fn start(&self, _: &Component, _: &[UnitName], _: Duration) -> Result<(), PortError> {
        Ok(())
    }
    async fn states(&self, _: &Component, units: &[UnitName]) -> Result<Vec<UnitState>, PortError> {
        let state = |name: &UnitName| UnitState {
            name: name.clone(),
            load: UnitLoad::Loaded,
            active: self.active,
            sub: "word".to_owned(),
            main_pid: None,
            invocation: format!("{:032x}", self.starts.load(Ordering::Relaxed)),
            restarts: 0,
        };
        Ok(units.iter().map(state).collect())
    }
    async fn processes(&self, _: &Component, _: &[UnitName]) -> Result<Vec<u32>, PortError> {
        Ok(vec![std::process::id()])
    }
    async fn log_tail(&self, _: &Component, _: &[UnitName], _: crate::ports::Tail) -> Vec<String> {
        Vec::new()
    }
}

fn component() -> Component {
    Component {
        name: "web".parse().expect("a name"),
        environment: "prod".parse().expect("a name"),
        root: "/srv/web".into(),
        releases: ReleasesLayout { directory: "releases".into(), pattern: "*".to_owned(), hardlinks: false },
        current: "current".to_owned(),
        backend: Backend::Systemd,
        units: vec!["web.service".parse().expect("a name")],
        configuration: None,
        probes: Vec::new(),
        timeouts: Timeouts::default(),
        policy: Policy::default(),
        state: "/var/lib/rollback/components/prod/web".into(),
    }
}

fn probe(kind: ProbeKind) -> Probe {
    let name = "it".parse().expect("a name");
    Probe {
        name,
        weight: Weight::Required,
        kind,
        timeout_ms: 5_000,
        interval_ms: 1,
        failures: 1,
        for_ms: 0,
        severity: Severity::Critical,
    }
}

fn probes(active: UnitActive) -> Probes {
    let standing = Standing { active, starts: Arc::default() };
    Probes::new(Arc::new(standing), Arc::new(HostFacts), Arc::new(SystemClock))
}

async fn ask(probe: &Probe) -> ProbeResult {
    probes(UnitActive::Active).ask(&component(), probe, LIMIT).await
}

/// Serves each answer to one connection, in order, the last one for ever.
async fn serve(answers: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        for answer in answers.iter().chain(std::iter::repeat(answers.last().expect("an answer"))) {
            let Ok((mut connection, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                // One read takes the whole of a small request.
                connection.read_buf(&mut Vec::with_capacity(4096)).await.ok();
                connection.write_all(answer.as_bytes()).await.ok();
                if answer.contains("for-ever") {
                    while connection.write_all(&[b'x'; 4096]).await.is_ok() {}
                }
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

fn http(address: SocketAddr, statuses: &[u16], body: Option<&str>) -> Probe {
    let (url, body) = (format!("http://{address}/healthz"), body.map(str::to_owned));
    probe(ProbeKind::Http(HttpProbe { url, statuses: statuses.to_vec(), body, json: None, latency_max_ms: None }))
}

fn exec(script: &str) -> Probe {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    probe(ProbeKind::Exec(ExecProbe { command }))
}

/// Reads a process id that a script has written.
fn pid_in(path: &Path) -> u32 {
    std::fs::read_to_string(path).expect("the script wrote it").trim().parse().expect("a process id")
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nok 2.4";
const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const MOVED: &str = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
const ENDLESS: &str = "HTTP/1.1 200 OK\r\nx: for-ever\r\n\r\n";

#[tokio::test]
async fn http_answers_are_judged_by_status_and_body() {
    for (answer, statuses, body, passed, detail) in [
        (&[OK], &[][..], None, true, "HTTP 200"),
        (&[OK], &[][..], Some("2.4"), true, "HTTP 200, body as expected"),
        (&[OK], &[][..], Some("2.5"), false, "the body lacks \"2.5\" in its first 6 bytes"),
        (&[BAD], &[][..], None, false, "HTTP 503, expected 200-299"),
        (&[BAD], &[503][..], None, true, "HTTP 503"),
        (&[MOVED], &[][..], None, false, "HTTP 302, expected 200-299"),
        (&[OK], &[204, 401][..], None, false, "HTTP 200, expected 204 or 401"),
        (&[ENDLESS], &[][..], Some("ok"), false, "the body lacks \"ok\" in its first 65536 bytes"),
    ] {
        let result = ask(&http(serve(answer).await, statuses, body)).await;
        assert_eq!((result.answer == Answer::Passed, result.detail.as_str()), (passed, detail));
    }
}

#[tokio::test]
async fn http_probe_fails_after_its_consecutive_tries_and_passes_at_the_first_good_one() {
    let flapping = Probe { failures: 3, ..http(serve(&[BAD, BAD, OK]).await, &[], None) };
    let result = ask(&flapping).await;
    assert_eq!((result.answer == Answer::Passed, result.tries), (true, 3));
    let failing = Probe { failures: 3, ..http(serve(&[BAD]).await, &[], None) };
    let result = ask(&failing).await;
    assert_eq!((result.answer == Answer::Passed, result.tries), (false, 3));
}

#[tokio::test]
async fn silent_server_fails_at_the_probes_own_limit_and_at_the_whole_one() {
    let silent = Probe { timeout_ms: 50, ..http(serve(&[""]).await, &[], None) };
    assert_eq!(ask(&silent).await.detail, "no answer within 50 ms");
    let patient = Probe { timeout_ms: 60_000, failures: 100, ..silent };
    let probes = probes(UnitActive::Active);
    let result = probes.ask(&component(), &patient, Duration::from_millis(100)).await;
    assert_eq!((result.answer == Answer::Passed, result.tries), (false, 1));
}

#[tokio::test]
async fn refused_connections_are_said_in_plain_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let tcp = probe(ProbeKind::Tcp(TcpProbe { address: address.to_string() }));
    assert!(ask(&tcp).await.answer == Answer::Passed);
    drop(listener);
    assert_eq!(ask(&tcp).await.detail, "connection refused");
    assert_eq!(ask(&http(address, &[], None)).await.detail, "connection refused");
}

#[tokio::test]
async fn https_to_a_server_without_tls_fails_with_a_reason() {
    let url = format!("https://{}/", serve(&[BAD]).await);
    let result = ask(&probe(ProbeKind::Http(HttpProbe {
        url,
        statuses: Vec::new(),
        body: None,
        json: None,
        latency_max_ms: None,
    })))
    .await;
    assert!(!(result.answer == Answer::Passed) && !result.detail.is_empty(), "{result:?}");
}

#[tokio::test]
async fn unit_probe_names_the_units_that_do_not_run() {
    let unit = probe(ProbeKind::Unit);
    assert_eq!(ask(&unit).await.detail, "1 unit runs");
    let failed = probes(UnitActive::Failed);
    let result = failed.ask(&component(), &unit, LIMIT).await;
    assert_eq!((result.answer == Answer::Passed, result.detail.as_str()), (false, "`web.service` is failed (word)"));
}

#[tokio::test]
async fn programs_are_judged_by_their_status_and_see_a_bare_environment() {
    let result = ask(&exec("echo $ROLLBACK_ENVIRONMENT/$ROLLBACK_COMPONENT $HOME")).await;
    assert_eq!((result.answer == Answer::Passed, result.detail.as_str()), (true, "exit status 0: prod/web"));
    let result = ask(&exec("printf 'no\\033[31m' >&2; exit 7")).await;
    assert_eq!((result.answer == Answer::Passed, result.detail.as_str()), (false, "exit status: 7: no\\u{1b}[31m"));
    let absent = probe(ProbeKind::Exec(ExecProbe { command: vec!["/absent".to_owned()] }));
    assert!(ask(&absent).await.detail.starts_with("cannot run `/absent`: No such file"));
}

#[tokio::test]
async fn program_that_floods_its_output_goes_on_and_is_cut() {
    let result = ask(&exec("head -c 3000000 /dev/zero | tr '\\0' x; exit 0")).await;
    assert!((result.answer == Answer::Passed) && result.detail.len() <= DETAIL_BYTES_MAX, "{result:?}");
    let endless = Probe { timeout_ms: 200, ..exec("exec yes") };
    assert!(ask(&endless).await.detail.starts_with("no answer within 200 ms, killed: y\ny\n"));
}

#[tokio::test]
async fn program_that_hangs_and_forks_away_is_killed_with_all_its_children() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let (child, stray) = (directory.path().join("child"), directory.path().join("stray"));
    let fork = format!("setsid sh -c 'trap \"\" TERM; echo $$ > {}; exec sleep 600' &", stray.display());
    let script = format!("{fork} sh -c 'echo $$ > {}; exec sleep 600'", child.display());
    let result = ask(&Probe { timeout_ms: 500, ..exec(&script) }).await;
    assert_eq!(result.detail, "no answer within 500 ms, killed");
    assert!(result.duration_ms < 2_000, "{result:?}");
    for pid in [pid_in(&child), pid_in(&stray)] {
        assert_eq!(procfs::started(pid), None, "{pid} is alive");
    }
    let result = ask(&exec(&format!("{fork} until test -s {}; do :; done", stray.display()))).await;
    assert!(result.answer == Answer::Passed, "{result:?}");
    assert_eq!(procfs::started(pid_in(&stray)), None);
}
