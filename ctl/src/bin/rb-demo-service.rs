//! A small real HTTP service that `rbctl demo` releases, breaks and takes back; it is no part of the product.
//!
//! `rb-demo-service --listen ADDRESS:PORT [--root DIRECTORY]` serves the version that `DIRECTORY/VERSION` names. A file
//! `DIRECTORY/BROKEN` makes it a bad release: `unhealthy`, `crash`, `crash-after SECONDS`, `never-ready`, `hang` or
//! `slow MILLISECONDS`.
#![expect(clippy::disallowed_methods, reason = "it reads its own release and nothing else")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const USAGE: &str = "usage: rb-demo-service --listen ADDRESS:PORT [--root DIRECTORY]";
/// Longest wait for a request: a client that says nothing must not hold a thread for ever.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a request that are read: a demo has no need for more than its first line and a few headers.
const REQUEST_BYTES_MAX: u64 = 8 * 1024;

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
}

struct Service {
    version: String,
    fault: Fault,
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
    let service = Arc::new(Service { version: version(&root)?, fault: fault(&root)? });
    if matches!(service.fault, Fault::Crash) {
        writeln!(io::stderr(), "FATAL version {} cannot start", service.version)?;
        return Ok(ExitCode::FAILURE);
    }
    let listener = TcpListener::bind(&listen)?;
    writeln!(io::stderr(), "version {} listens on {}", service.version, listener.local_addr()?)?;
    if !matches!(service.fault, Fault::NeverReady) {
        notify_ready()?;
    }
    if let Fault::CrashAfter(time) = service.fault {
        thread::spawn(move || {
            thread::sleep(time);
            std::process::exit(1);
        });
    }
    for connection in listener.incoming() {
        let (service, connection) = (Arc::clone(&service), connection?);
        // A client that goes away is its own business.
        thread::spawn(move || service.answer(connection).ok());
    }
    Ok(ExitCode::SUCCESS)
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
            Fault::None | Fault::Unhealthy | Fault::Crash | Fault::CrashAfter(_) | Fault::NeverReady => {}
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
            ("/", _) => {
                let page = format!("<!doctype html><title>demo</title><h1>This is version {version}.</h1>\n");
                ("200 OK", "text/html", page)
            }
            ("/healthz", Fault::Unhealthy) => {
                ("500 Internal Server Error", "text/plain", format!("broken {version}\n"))
            }
            ("/healthz", _) => ("200 OK", "text/plain", format!("ok {version}\n")),
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
