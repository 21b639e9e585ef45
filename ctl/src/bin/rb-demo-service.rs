//! A small real HTTP service that `rbctl demo` releases, breaks and takes back; it is no part of the product.
//!
//! `rb-demo-service --listen ADDRESS:PORT [--root DIRECTORY]` serves the version that `DIRECTORY/VERSION` names. A file
//! `DIRECTORY/BROKEN` makes it a bad release: `unhealthy`, `crash`, `crash-after SECONDS`, `never-ready`, `hang`,
//! `slow MILLISECONDS`; and with a health page that knows nothing of it `errors PERCENT`, `slow-page MILLISECONDS`,
//! `fatal SECONDS` (a critical line in its log, once) and `leak MIB` (each second). `/metrics` counts its pages.
#![expect(clippy::disallowed_methods, reason = "it reads its own release and the clock, and nothing else")]

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: rb-demo-service --listen ADDRESS:PORT [--root DIRECTORY]";
/// Longest wait for a request: a client that says nothing must not hold a thread for ever.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a request that are read: a demo has no need for more than its first line and a few headers.
const REQUEST_BYTES_MAX: u64 = 8 * 1024;
/// The upper bounds of the latencies' histogram, in milliseconds.
const BOUNDS_MS: [u64; 6] = [5, 25, 100, 200, 500, 1_000];

/// In which way the release is bad.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Unhealthy,
    Crash,
    CrashAfter(Duration),
    NeverReady,
    Hang,
    Slow(Duration),
    Errors(u64),
    SlowPage(Duration),
    Fatal(Duration),
    Leak(u64),
}

struct Service {
    version: String,
    fault: Fault,
    pages: Pages,
}

/// What was served of the front page.
#[derive(Default)]
struct Pages {
    good: AtomicU64,
    bad: AtomicU64,
    took_ms: AtomicU64,
    /// Those that took at most the bound of the same number; cumulative, as they are exposed.
    within: [AtomicU64; BOUNDS_MS.len()],
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // With standard error closed there is nobody left to tell.
            writeln!(io::stderr(), "rb-demo-service: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let (listen, root) = arguments()?;
    let service = Arc::new(Service { version: version(&root)?, fault: fault(&root)?, pages: Pages::default() });
    if matches!(service.fault, Fault::Crash) {
        writeln!(io::stderr(), "FATAL version {} cannot start", service.version)?;
        return Ok(ExitCode::FAILURE);
    }
    let listener = TcpListener::bind(&listen)?;
    writeln!(io::stderr(), "version {} listens on {}", service.version, listener.local_addr()?)?;
    if !matches!(service.fault, Fault::NeverReady) {
        notify_ready()?;
    }
    misbehave(service.fault);
    for connection in listener.incoming() {
        let (service, connection) = (Arc::clone(&service), connection?);
        // A client that goes away is its own business.
        thread::spawn(move || service.answer(connection).ok());
    }
    Ok(ExitCode::SUCCESS)
}

/// Begins what a bad release does by itself.
fn misbehave(fault: Fault) {
    let act: Box<dyn FnOnce() + Send> = match fault {
        Fault::CrashAfter(time) => Box::new(move || {
            thread::sleep(time);
            std::process::exit(1);
        }),
        Fault::Fatal(time) => Box::new(move || {
            thread::sleep(time);
            // With standard error closed there is nobody left to tell.
            writeln!(io::stderr(), "FATAL the cache is inconsistent").ok();
        }),
        Fault::Leak(mib) => Box::new(move || {
            let mut leaked = Vec::new();
            loop {
                leaked.push(vec![1_u8; usize::try_from(mib << 20).unwrap_or(0)]);
                thread::sleep(Duration::from_secs(1));
            }
        }),
        Fault::None
        | Fault::Unhealthy
        | Fault::Crash
        | Fault::NeverReady
        | Fault::Hang
        | Fault::Slow(_)
        | Fault::Errors(_)
        | Fault::SlowPage(_) => return,
    };
    thread::spawn(act);
}

impl Pages {
    /// Counts one, and tells whether it is to fail when so many of a hundred shall.
    fn count(&self, began: Instant, percent: u64) -> bool {
        let before = self.good.load(Ordering::Relaxed) + self.bad.load(Ordering::Relaxed);
        let fails = before % 100 * percent / 100 != (before % 100 + 1) * percent / 100;
        if fails { &self.bad } else { &self.good }.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.took_ms.fetch_add(took, Ordering::Relaxed);
        for (_, within) in BOUNDS_MS.iter().zip(&self.within).filter(|(bound, _)| took <= **bound) {
            within.fetch_add(1, Ordering::Relaxed);
        }
        fails
    }

    fn metrics(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (good, bad) = (read(&self.good), read(&self.bad));
        let mut text = format!(
            "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {good}\n\
             http_requests_total{{code=\"500\"}} {bad}\n# TYPE http_request_duration_seconds histogram\n"
        );
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        let bucket = "http_request_duration_seconds_bucket";
        for (bound, within) in BOUNDS_MS.iter().zip(&self.within) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{bucket}{{le=\"{}\"}} {}", seconds(*bound), read(within));
        }
        let (count, sum) = (good + bad, seconds(read(&self.took_ms)));
        let _ = write!(
            text,
            "{bucket}{{le=\"+Inf\"}} {count}\nhttp_request_duration_seconds_sum {sum}\n\
             http_request_duration_seconds_count {count}\n"
        );
        text
    }
}

impl Service {
    fn answer(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_read_timeout(Some(REQUEST_LIMIT))?;
        let mut request = BufReader::new(connection.try_clone()?.take(REQUEST_BYTES_MAX)).lines();
        let first = request.next().transpose()?.unwrap_or_default();
        // The headers are read so that closing does not reset the connection under an unread request.
        while request.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        match self.fault {
            Fault::Hang => loop {
                thread::park();
            },
            Fault::Slow(time) => thread::sleep(time),
            Fault::None
            | Fault::Unhealthy
            | Fault::Crash
            | Fault::CrashAfter(_)
            | Fault::NeverReady
            | Fault::Errors(_)
            | Fault::SlowPage(_)
            | Fault::Fatal(_)
            | Fault::Leak(_) => {}
        }
        let (status, kind, body) = self.page(first.split(' ').nth(1).unwrap_or_default());
        let length = body.len();
        write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }

    fn page(&self, path: &str) -> (&'static str, &'static str, String) {
        let version = &self.version;
        match (path, self.fault) {
            ("/", fault) => {
                let began = Instant::now();
                if let Fault::SlowPage(time) = fault {
                    thread::sleep(time);
                }
                let percent = if let Fault::Errors(percent) = fault { percent } else { 0 };
                if self.pages.count(began, percent) {
                    return ("500 Internal Server Error", "text/plain", format!("version {version} failed\n"));
                }
                let page = format!("<!doctype html><title>demo</title><h1>This is version {version}.</h1>\n");
                ("200 OK", "text/html", page)
            }
            ("/healthz", Fault::Unhealthy) => {
                ("500 Internal Server Error", "text/plain", format!("broken {version}\n"))
            }
            ("/healthz", _) => ("200 OK", "text/plain", format!("ok {version}\n")),
            ("/metrics", _) => ("200 OK", "text/plain; version=0.0.4", self.pages.metrics()),
            _ => ("404 Not Found", "text/plain", "no such page\n".to_owned()),
        }
    }
}

fn arguments() -> io::Result<(String, PathBuf)> {
    let mut arguments = std::env::args().skip(1);
    let (mut listen, mut root) = (None, PathBuf::from("."));
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| io::Error::other(USAGE))?;
        match option.as_str() {
            "--listen" => listen = Some(value),
            "--root" => root = PathBuf::from(value),
            _ => return Err(io::Error::other(USAGE)),
        }
    }
    Ok((listen.ok_or_else(|| io::Error::other(USAGE))?, root))
}

/// Reads the version; only plain characters are taken, because it is put into a page.
fn version(root: &Path) -> io::Result<String> {
    let path = root.join("VERSION");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))?;
    let plain = |c: &char| c.is_ascii_alphanumeric() || ".-_+".contains(*c);
    Ok(text.trim().chars().take_while(plain).take(64).collect())
}

fn fault(root: &Path) -> io::Result<Fault> {
    let Ok(text) = std::fs::read_to_string(root.join("BROKEN")) else { return Ok(Fault::None) };
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let number = words.next().and_then(|word| u64::from_str(word).ok());
    match (kind, number) {
        ("unhealthy", _) => Ok(Fault::Unhealthy),
        ("crash", _) => Ok(Fault::Crash),
        ("crash-after", Some(secs)) => Ok(Fault::CrashAfter(Duration::from_secs(secs))),
        ("never-ready", _) => Ok(Fault::NeverReady),
        ("hang", _) => Ok(Fault::Hang),
        ("slow", Some(ms)) => Ok(Fault::Slow(Duration::from_millis(ms))),
        ("errors", Some(percent)) => Ok(Fault::Errors(percent.min(100))),
        ("slow-page", Some(ms)) => Ok(Fault::SlowPage(Duration::from_millis(ms))),
        ("fatal", Some(secs)) => Ok(Fault::Fatal(Duration::from_secs(secs))),
        ("leak", Some(mib)) => Ok(Fault::Leak(mib)),
        _ => Err(io::Error::other(format!("BROKEN has no known fault: {:?}", text.trim()))),
    }
}

/// Tells systemd, when it started the service, that requests are served now.
fn notify_ready() -> io::Result<()> {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}
