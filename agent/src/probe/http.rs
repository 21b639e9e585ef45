//! The `http` probe: a GET without redirects, proxies or kept connections, and what its answer must have and when.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use reqwest::{ClientBuilder, header, redirect};
use rollback::chain::Chain;
use serde_json::Value;
use tokio::time::Instant;

use super::{Seen, io_words};
use crate::config::{HttpProbe, JsonValue};

/// Bytes of a body that are searched: a health page is small, and one that streams for ever is cut here.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// An answer.
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// Whether the body ends here.
    pub(super) is_whole: bool,
}

/// Clients for both schemes, each built when it is first needed: only `https` reads the host's authorities.
#[derive(Debug, Default)]
pub(super) struct Client {
    plain: OnceLock<Result<reqwest::Client, String>>,
    tls: OnceLock<Result<reqwest::Client, String>>,
}

impl Client {
    /// Passes when status, body and latency are as the probe wants them.
    pub(super) async fn ask(&self, probe: &HttpProbe) -> Seen {
        let began = Instant::now();
        let reads_body = probe.body.is_some() || probe.json.is_some();
        let page = self.get(&probe.url, None, if reads_body { BODY_BYTES_MAX } else { 0 }).await?;
        let (took_ms, status) = (began.elapsed().as_millis(), page.status);
        let accepted = match probe.statuses.as_slice() {
            [] => (200..300).contains(&status),
            statuses => statuses.contains(&status),
        };
        if !accepted {
            return Err(format!("HTTP {status}, expected {}", expected(&probe.statuses)));
        }
        if let Some(text) = &probe.body {
            contains(&page.body, text)?;
        }
        if let Some(json) = &probe.json {
            has(&page.body, json)?;
        }
        match probe.latency_max_ms {
            Some(max_ms) if took_ms > u128::from(max_ms) => {
                Err(format!("HTTP {status} after {took_ms} ms, {max_ms} ms is the limit"))
            }
            Some(_) | None if reads_body => Ok(format!("HTTP {status}, body as expected")),
            Some(_) | None => Ok(format!("HTTP {status}")),
        }
    }

    /// Gets a page, and of its body at most so many bytes.
    pub(super) async fn get(&self, url: &str, accept: Option<&str>, bytes_max: usize) -> Result<Page, String> {
        let client = if url.starts_with("https:") {
            self.tls.get_or_init(|| with_tls().build().map_err(|error| Chain(&error).to_string()))
        } else {
            self.plain.get_or_init(|| without_tls().build().map_err(|error| Chain(&error).to_string()))
        };
        let client = client.as_ref().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        let mut request = client.get(url);
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        let mut answer = request.send().await.map_err(|error| words(&error))?;
        let mut page = Page { status: answer.status().as_u16(), body: Vec::new(), is_whole: bytes_max > 0 };
        while page.body.len() < bytes_max {
            let Some(chunk) = answer.chunk().await.map_err(|error| words(&error))? else { return Ok(page) };
            page.is_whole = chunk.len() <= bytes_max - page.body.len();
            page.body.extend_from_slice(&chunk[..chunk.len().min(bytes_max - page.body.len())]);
        }
        Ok(page)
    }
}

fn builder() -> ClientBuilder {
    reqwest::Client::builder().redirect(redirect::Policy::none()).pool_max_idle_per_host(0).no_proxy()
}

fn with_tls() -> ClientBuilder {
    // The process has one provider; that somebody installed it before is well.
    rustls::crypto::ring::default_provider().install_default().ok();
    builder()
}

/// Trusts nobody and reads no authorities: it is only asked for `http`.
fn without_tls() -> ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = versions
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    builder().tls_backend_preconfigured(tls)
}

fn contains(body: &[u8], text: &str) -> Result<(), String> {
    let wanted = text.as_bytes();
    if wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted) {
        return Ok(());
    }
    Err(format!("the body lacks {text:?} in its first {} bytes", body.len()))
}

fn has(body: &[u8], wanted: &JsonValue) -> Result<(), String> {
    let pointer = &wanted.pointer;
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    match (body.pointer(pointer), &wanted.equals) {
        (None, _) => Err(format!("the body has no `{pointer}`")),
        (Some(found), Some(equals)) if found == equals => Ok(()),
        (Some(found), Some(equals)) => Err(format!("`{pointer}` is {found}, expected {equals}")),
        (Some(found @ (Value::Null | Value::Bool(false))), None) => Err(format!("`{pointer}` is {found}")),
        (Some(_), None) => Ok(()),
    }
}

fn expected(statuses: &[u16]) -> String {
    match statuses {
        [] => "200-299".to_owned(),
        some => some.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
    }
}

/// Says why a request failed: by the system's words when the connection failed, else with every cause.
fn words(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(found) = cause {
        match found.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() != std::io::ErrorKind::Other => return io_words(io),
            _ => cause = found.source(),
        }
    }
    Chain(error).to_string()
}
