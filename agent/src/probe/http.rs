//! The `http` probe: a GET without redirects, proxies or kept connections, and what its answer must have.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use reqwest::{ClientBuilder, Response, redirect};
use rollback::chain::Chain;

use super::{Seen, io_words};
use crate::config::HttpProbe;

/// Bytes of a body that are searched: a health page is small, and one that streams for ever is cut here.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Clients for both schemes, each built when it is first needed: only `https` reads the host's authorities.
#[derive(Debug, Default)]
pub(super) struct Client {
    plain: OnceLock<Result<reqwest::Client, String>>,
    tls: OnceLock<Result<reqwest::Client, String>>,
}

impl Client {
    /// Passes when status and body are as the probe wants them.
    pub(super) async fn ask(&self, probe: &HttpProbe) -> Seen {
        let client = if probe.url.starts_with("https:") {
            self.tls.get_or_init(|| with_tls().build().map_err(|error| Chain(&error).to_string()))
        } else {
            self.plain.get_or_init(|| without_tls().build().map_err(|error| Chain(&error).to_string()))
        };
        let client = client.as_ref().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        let answer = client.get(&probe.url).send().await.map_err(|error| words(&error))?;
        let status = answer.status().as_u16();
        let accepted = match probe.statuses.as_slice() {
            [] => answer.status().is_success(),
            statuses => statuses.contains(&status),
        };
        if !accepted {
            return Err(format!("HTTP {status}, expected {}", expected(&probe.statuses)));
        }
        match &probe.body {
            Some(text) => contains(answer, text).await.map(|()| format!("HTTP {status}, body as expected")),
            None => Ok(format!("HTTP {status}")),
        }
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

async fn contains(mut answer: Response, text: &str) -> Result<(), String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| words(&error))? {
        body.extend_from_slice(&chunk[..chunk.len().min(BODY_BYTES_MAX - body.len())]);
        if body.len() == BODY_BYTES_MAX {
            break;
        }
    }
    let wanted = text.as_bytes();
    if wanted.is_empty() || body.windows(wanted.len()).any(|window| window == wanted) {
        return Ok(());
    }
    Err(format!("the body lacks {text:?} in its first {} bytes", body.len()))
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
