//! Tests of the rules: servers that lie, cut and hang, a journal that is made up, and this process's own memory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use jiff::Timestamp;
use rollback::rules::lines::Patterns;
use rollback::rules::metric::Measure;
use rollback::rules::usage::Limits;

use super::*;
use crate::config::{JsonValue, LogProbe, MetricProbe, QueryProbe, ResourceProbe, ScrapeProbe};

/// A clock that is turned by hand.
#[derive(Default)]
struct Hands(AtomicU64);

impl Hands {
    fn turn(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1_000, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.boottime()
    }
    fn boot(&self) -> String {
        "a".to_owned()
    }
    fn boottime(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
    async fn sleep(&self, _: Duration) {}
    fn random(&self) -> [u8; 10] {
        [0; 10]
    }
}

/// Probes with a clock and starts of the units that a test turns.
struct Lab {
    probes: Probes,
    hands: Arc<Hands>,
    starts: Arc<AtomicU64>,
}

impl Lab {
    fn new() -> Self {
        let (hands, starts) = (Arc::new(Hands::default()), Arc::new(AtomicU64::new(1)));
        let standing = Standing { active: UnitActive::Active, starts: Arc::clone(&starts) };
        let probes = Probes::new(Arc::new(standing), Arc::new(HostFacts), Arc::clone(&hands) as _);
        Self { probes, hands, starts }
    }

    /// A lab whose journal is what a script prints.
    fn with_journal(script: &str) -> (Self, tempfile::TempDir) {
        let mut lab = Self::new();
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let reader: PathBuf = directory.path().join("journalctl");
        std::fs::write(&reader, format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display())).expect("written");
        std::fs::set_permissions(&reader, std::fs::Permissions::from_mode(0o755)).expect("executable");
        lab.probes.journal = log::Journal::new(reader, Arc::clone(&lab.hands) as _);
        (lab, directory)
    }

    async fn ask(&self, probe: &Probe) -> (Answer, String) {
        self.hands.turn(5);
        let result = self.probes.ask(&component(), probe, LIMIT).await;
        (result.answer, result.detail)
    }
}

fn ratio(address: SocketAddr) -> Probe {
    let [errors, total] = ["n{code=\"500\"}", "n"].map(|text| text.parse().expect("a selector"));
    let measure = Measure::Ratio { errors, total, max: 0.01 };
    let url = format!("http://{address}/metrics");
    let scrape = ScrapeProbe { url, measure, window_ms: 60_000, requests_min: 10 };
    probe(ProbeKind::Metric(MetricProbe::Scrape(scrape)))
}

const START: &str = "HTTP/1.1 200 OK\r\n\r\nn{code=\"200\"} 100\nn{code=\"500\"} 50\n";
const GOOD: &str = "HTTP/1.1 200 OK\r\n\r\nn{code=\"200\"} 200\nn{code=\"500\"} 50\n";
const ERRORS: &str = "HTTP/1.1 200 OK\r\n\r\nn{code=\"200\"} 250\nn{code=\"500\"} 100\n";
const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nn{code=\"200\"} 250\nn{code=\"50";
const HTML: &str = "HTTP/1.1 200 OK\r\n\r\n<html>\n";

#[tokio::test]
async fn error_rates_are_measured_between_two_looks_at_the_same_processes() {
    let lab = Lab::new();
    let probe = ratio(serve(&[START, GOOD, ERRORS, GOOD, ERRORS]).await);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(lab.ask(&probe).await);
    }
    // Another start: what the counters were before is nobody's error rate.
    lab.starts.fetch_add(1, Ordering::Relaxed);
    for _ in 0..2 {
        seen.push(lab.ask(&probe).await);
    }
    let expected = [
        (Answer::Undecided, "the counters were read once: what they grow by is not known yet"),
        (Answer::Passed, "0 % of 100 requests in 5 s failed"),
        (Answer::Failed, "25 % of 200 requests in 10 s failed, 1 % is the limit"),
        (Answer::Undecided, "the counters were read once: what they grow by is not known yet"),
        (Answer::Failed, "50 % of 100 requests in 5 s failed, 1 % is the limit"),
    ];
    assert_eq!(seen, expected.map(|(answer, words)| (answer, words.to_owned())));
}

#[tokio::test]
async fn metrics_that_are_none_prove_nothing() {
    for (answers, words) in [
        (&[BAD][..], "HTTP 503, expected 200"),
        (&[MOVED], "HTTP 302, expected 200"),
        (&[ENDLESS], "the answer has more than 4194304 bytes"),
        (&[HTML], "the metrics tell nothing: line 1 is no sample"),
        (&["HTTP/1.1 200 OK\r\n\r\nup 1\n"], "the metrics tell nothing: no series matches `n`"),
        (&["HTTP/1.1 200 OK\r\n\r\n\u{0}\u{1}\n"], "the metrics tell nothing: line 1 is no sample"),
    ] {
        assert_eq!(Lab::new().ask(&ratio(serve(answers).await)).await, (Answer::Undecided, words.to_owned()));
    }
    for answers in [&[CUT][..], &["nonsense"]] {
        assert_eq!(Lab::new().ask(&ratio(serve(answers).await)).await.0, Answer::Undecided);
    }
    let silent = Probe { timeout_ms: 50, ..ratio(serve(&[""]).await) };
    assert_eq!(Lab::new().ask(&silent).await, (Answer::Undecided, "no answer within 50 ms".to_owned()));
    let nobody = ratio("127.0.0.1:1".parse().expect("an address"));
    assert_eq!(Lab::new().ask(&nobody).await, (Answer::Undecided, "connection refused".to_owned()));
}

#[tokio::test]
async fn a_server_is_asked_its_query() {
    const ANSWER: &str =
        "HTTP/1.1 200 OK\r\n\r\n{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"0.5\"]}}";
    const REFUSED: &str = "HTTP/1.1 400 Bad Request\r\n\r\n{\"status\":\"error\",\"error\":\"parse error\"}";
    for (answers, max, expected) in [
        (&[ANSWER][..], 0.5, (Answer::Passed, "the query gives 0.5")),
        (&[ANSWER], 0.4, (Answer::Failed, "the query gives 0.5, 0.4 is the limit")),
        (&[REFUSED], 0.4, (Answer::Undecided, "the query failed: parse error")),
        (&[BAD], 0.4, (Answer::Undecided, "HTTP 503, expected 200")),
    ] {
        let server = format!("http://{}/prometheus/", serve(answers).await);
        let query = QueryProbe { server, promql: "a{b=\"c\"} / 2".to_owned(), max };
        let found = Lab::new().ask(&probe(ProbeKind::Metric(MetricProbe::Query(query)))).await;
        assert_eq!((found.0, found.1.as_str()), expected);
    }
}

fn log_probe(max: u32) -> Probe {
    let patterns = Patterns::new(["FATAL", "panicked"]).expect("patterns");
    probe(ProbeKind::Log(LogProbe { patterns, lines_max: max, within_ms: 60_000 }))
}

/// One line of a journal: it was written so many seconds after the clock's zero.
fn line(second: u64, message: &str) -> String {
    format!("{{\"__CURSOR\":\"c{second}\",\"__REALTIME_TIMESTAMP\":\"{second}000000\",\"MESSAGE\":{message}}}")
}

#[tokio::test]
async fn critical_lines_count_from_where_the_last_look_ended() {
    let calls = "echo \"$@\" >> calls; test -e first || { touch first; cat one; exit; }; cat two; : > two";
    let (lab, directory) = Lab::with_journal(calls);
    let one = [line(1, "\"well\""), line(2, "null"), "garbage".to_owned(), line(3, "[102,111,111]")].join("\n");
    let two = [line(7, "\"FATAL no \\u001b[31mdisk\""), line(8, "[\"x\",\"panicked\"]")].join("\n");
    for (name, text) in [("one", one + "\n"), ("two", two + "\n{\"cut")] {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    let probe = log_probe(1);
    assert_eq!(lab.ask(&probe).await, (Answer::Passed, "no critical line".to_owned()));
    let critical = "it logged more than 1 critical lines within 60 s: x panicked";
    assert_eq!(lab.ask(&probe).await, (Answer::Failed, critical.to_owned()));
    assert_eq!(lab.ask(&probe).await, (Answer::Failed, critical.to_owned()), "nothing is counted twice");
    let calls = std::fs::read_to_string(directory.path().join("calls")).expect("calls");
    let calls: Vec<&str> = calls.lines().collect();
    assert!(
        calls[0].contains("--since=@0")
            && calls[0].ends_with("_SYSTEMD_INVOCATION_ID=00000000000000000000000000000001")
    );
    assert!(calls[1].contains("--after-cursor=c3 ") && calls[2].contains("--after-cursor=c8 "), "{calls:?}");
    let sure = Lab::with_journal(&format!("echo '{}'", line(1, "\"FATAL no \\u001b[31mdisk\"")));
    let told = "it logged a critical line: FATAL no \\u{1b}[31mdisk";
    assert_eq!(sure.0.ask(&log_probe(0)).await, (Answer::Failed, told.to_owned()));
}

#[tokio::test]
async fn a_journal_that_hangs_floods_or_fails_ends_in_time() {
    let (fails, _held) = Lab::with_journal("exit 3");
    assert_eq!(fails.ask(&log_probe(0)).await, (Answer::Undecided, "`journalctl`: exit status: 3".to_owned()));
    let (hangs, held) = Lab::with_journal("echo $$ > pid; exec sleep 600");
    let impatient = Probe { timeout_ms: 500, ..log_probe(0) };
    let (answer, words) = hangs.ask(&impatient).await;
    assert_eq!((answer, words.as_str()), (Answer::Undecided, "the journal was not read within 400 ms"));
    let pid = pid_in(&held.path().join("pid"));
    while procfs::started(pid).is_some() {
        tokio::task::yield_now().await;
    }
    let (floods, _held) = Lab::with_journal(&format!("while :; do echo '{}'; done", line(1, "\"FATAL\"")));
    let (answer, words) = floods.ask(&Probe { timeout_ms: 1_000, ..log_probe(5) }).await;
    assert_eq!(answer, Answer::Failed, "{words}");
    let (long, _held) =
        Lab::with_journal(&format!("echo '{}'; exec yes '{}'", line(1, "\"FATAL\""), line(2, "\"ok\"")));
    assert_eq!(long.ask(&log_probe(0)).await.0, Answer::Failed, "four megabytes are enough");
    let mut absent = Lab::new();
    absent.probes.journal = log::Journal::new("/absent".into(), Arc::clone(&absent.hands) as _);
    assert!(absent.ask(&log_probe(0)).await.1.starts_with("cannot run `/absent`: No such file"));
}

#[tokio::test]
async fn what_processes_use_is_judged() {
    let of = |limits: Limits| probe(ProbeKind::Resource(ResourceProbe { limits, window_ms: 10_000 }));
    let lab = Lab::new();
    let (answer, words) = lab.ask(&of(Limits { memory_max: Some(1 << 20), ..Limits::default() })).await;
    assert!(answer == Answer::Failed && words.ends_with(" MiB of memory, 1.0 MiB is the limit"), "{words}");
    let cpu = of(Limits { memory_max: Some(1 << 40), cpu_max: Some(100_000), ..Limits::default() });
    assert_eq!(lab.ask(&cpu).await.0, Answer::Undecided, "CPU needs two looks");
    assert_eq!(lab.ask(&cpu).await.0, Answer::Passed);
}

#[tokio::test]
async fn http_answers_are_judged_by_their_values_and_their_latency() {
    const BODY: &str = "HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\",\"db\":{\"up\":true,\"lag\":3,\"down\":false}}";
    let value =
        |pointer: &str, equals: Option<serde_json::Value>| Some(JsonValue { pointer: pointer.to_owned(), equals });
    for (answers, json, expected) in [
        (&[BODY][..], value("/status", Some("ok".into())), Ok(())),
        (&[BODY], value("/db/up", Some(true.into())), Ok(())),
        (&[BODY], value("/db/lag", Some(3.into())), Ok(())),
        (&[BODY], value("/db/lag", Some(4.into())), Err("`/db/lag` is 3, expected 4")),
        (&[BODY], value("/db/up", None), Ok(())),
        (&[BODY], value("/db/down", None), Err("`/db/down` is false")),
        (&[BODY], value("/queue", None), Err("the body has no `/queue`")),
        (&[OK], value("", None), Err("the body is not JSON: expected value at line 1 column 1")),
    ] {
        let url = format!("http://{}/", serve(answers).await);
        let http = HttpProbe { url, statuses: Vec::new(), body: None, json, latency_max_ms: Some(60_000) };
        let result = ask(&probe(ProbeKind::Http(http))).await;
        let passed = (result.answer == Answer::Passed).then_some(()).ok_or(result.detail.as_str());
        assert_eq!(passed, expected);
    }
    let url = format!("http://{}/", serve(&["HTTP/1.1 200 OK\r\n\r\n"]).await);
    let http = HttpProbe { url, statuses: Vec::new(), body: None, json: None, latency_max_ms: Some(0) };
    let result = ask(&probe(ProbeKind::Http(http))).await;
    assert!(result.duration_ms == 0 || result.detail.ends_with(" ms, 0 ms is the limit"), "{result:?}");
}
