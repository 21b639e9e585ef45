//! Connects to one agent, over mutual TLS or over its local socket, and says in words why it could not.
//!
//! The handshake of TLS 1.3 ends for the client before the agent has judged its certificate. So [`connect`] waits for
//! the first bytes of the agent, and a refusal is an error here and not a riddle at the first call.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rollback::chain::Chain;
use rollback::model::ids::HostName;
use rollback::wire::v1::agent_client::AgentClient;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::trust::NotThatAgent;
pub use super::trust::{Trust, TrustError, TrustFiles};

/// Longest time to reach a host: in one network an answer takes milliseconds, and a dead host must not hold up a wave.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest handshake, the agent's first bytes included.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How often a silent agent is asked whether it lives; without this a channel stays dead after a partition.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to answer that.
pub const KEEPALIVE_LIMIT: Duration = Duration::from_secs(5);
/// Largest reply that is accepted: 10,000 lines of history have less; a lying host cannot fill the memory.
pub const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest request that is sent: what an agent accepts.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Largest list of headers that is accepted.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// On a host, reached over the network.
    Remote {
        /// The host's name: the name that its certificate must have.
        name: HostName,
        /// Where it listens: `address:port`.
        address: String,
    },
    /// On this host.
    Local {
        /// Its socket.
        socket: PathBuf,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Remote { name, address } => write!(f, "`{name}` at {address}"),
            Self::Local { socket } => write!(f, "the agent of this host at `{}`", socket.display()),
        }
    }
}

/// How long the parts of a connection may take; calls have deadlines of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the host answers.
    pub connect: Duration,
    /// From then until both sides trust each other.
    pub handshake: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: CONNECT_LIMIT, handshake: HANDSHAKE_LIMIT }
    }
}

/// Says why there is no connection. Nothing has been asked of the agent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A host was meant, but the client has no certificate.
    #[error("cannot connect to {0} without a certificate")]
    NoTrust(String),
    /// Nobody listens there, the host is unknown, or there is no way to it.
    #[error("cannot reach {target}")]
    Unreachable {
        /// The agent.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("{target} did not {what} within {} ms", limit.as_millis())]
    Slow {
        /// The agent.
        target: String,
        /// What it did not do.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The agent's certificate is not valid at this time.
    #[error("the certificate of {target} {what} {bound}, the clock here says {now}: renew it, or set the clock")]
    Time {
        /// The agent.
        target: String,
        /// `ended at` or `begins at`.
        what: &'static str,
        /// That time.
        bound: Timestamp,
        /// The client's clock.
        now: Timestamp,
    },
    /// The agent's certificate comes from an authority that the client does not trust.
    #[error("the certificate of {0} is not from an authority that is trusted here")]
    UnknownAuthority(String),
    /// Somebody else answered.
    #[error("{target} is not the agent that was meant: {why}")]
    SomebodyElse {
        /// The agent that was meant.
        target: String,
        /// Who answered.
        why: String,
    },
    /// The agent does not accept the client.
    #[error("{target} refuses this client: {why}")]
    Refused {
        /// The agent.
        target: String,
        /// Why, as far as it says.
        why: &'static str,
    },
    /// The agent closed the connection without a reason.
    #[error("{0} closed the connection: its log says why (an unknown identity, too many connections, or it stops)")]
    Closed(String),
    /// The handshake failed in another way.
    #[error("the handshake with {target} failed")]
    Handshake {
        /// The agent.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// HTTP/2 did not start.
    #[error("cannot talk to {target}")]
    Transport {
        /// The agent.
        target: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to an agent. The channel connects again by itself, with the same checks, when the connection is lost.
///
/// # Errors
/// When the agent cannot be reached, is not the one that was meant, or refuses the client.
pub async fn connect(target: &Target, trust: Option<&Trust>, deadlines: Deadlines) -> Result<Channel, ConnectError> {
    let dialer = Arc::new(Dialer::new(target, trust, deadlines)?);
    let first = Arc::new(Mutex::new(Some(dialer.dial().await?)));
    let again = Arc::clone(&dialer);
    let connector = tower::service_fn(move |_| {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dialer = Arc::clone(&again);
        async move {
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => dialer.dial().await.map(TokioIo::new),
            }
        }
    });
    // The name is never looked up: the connector knows where to go.
    Endpoint::from_static("http://agent.invalid")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_LIMIT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Transport { target: target.to_string(), source })
}

/// Connects and hangs up: tells after a failed call whether the connection is to blame.
///
/// # Errors
/// As [`connect`].
pub async fn probe(target: &Target, trust: Option<&Trust>, deadlines: Deadlines) -> Result<(), ConnectError> {
    Dialer::new(target, trust, deadlines)?.dial().await.map(drop)
}

/// Makes a client of a channel, with bounds for what it sends and accepts.
#[must_use]
pub fn client(channel: Channel) -> AgentClient<Channel> {
    AgentClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX).max_encoding_message_size(REQUEST_BYTES_MAX)
}

/// Says in words what a failed call means: the agent's own words, or what its transport error hides in its causes.
#[must_use]
pub fn explain_status(status: &Status) -> String {
    let mut cause = Error::source(status);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return Chain(error).to_string();
        }
        if let Some(why) = tls_error(error).and_then(refusal) {
            return format!("the agent refuses this client: {why}");
        }
        cause = error.source();
    }
    match Error::source(status) {
        Some(source) => format!("the connection to the agent was lost: {}", Chain(source)),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// A stream that is proved on both sides.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Makes connections to one agent.
struct Dialer {
    target: String,
    way: Way,
    deadlines: Deadlines,
}

enum Way {
    Network { address: String, tls: Arc<ClientConfig> },
    Socket(PathBuf),
}

impl Dialer {
    fn new(target: &Target, trust: Option<&Trust>, deadlines: Deadlines) -> Result<Self, ConnectError> {
        let way = match target {
            Target::Local { socket } => Way::Socket(socket.clone()),
            Target::Remote { name, address } => {
                let trust = trust.ok_or_else(|| ConnectError::NoTrust(target.to_string()))?;
                let tls = trust.for_host(name).map_err(|error| ConnectError::Handshake {
                    target: target.to_string(),
                    source: std::io::Error::other(error),
                })?;
                Way::Network { address: address.clone(), tls }
            }
        };
        Ok(Self { target: target.to_string(), way, deadlines })
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, ConnectError> {
        match &self.way {
            Way::Network { address, tls } => {
                let stream = self.reach(TcpStream::connect(address)).await?;
                stream.set_nodelay(true).map_err(|source| self.unreachable(source))?;
                let tls = TlsConnector::from(Arc::clone(tls));
                // Not sent and not checked: the verifier knows the identity that must answer.
                let name = ServerName::try_from("agent.invalid").expect("a constant that is a DNS name");
                self.in_time(async { self.greeted(tls.connect(name, stream).await?).await }).await
            }
            Way::Socket(path) => {
                let stream = self.reach(UnixStream::connect(path)).await?;
                self.in_time(self.greeted(stream)).await
            }
        }
    }

    async fn reach<S>(&self, connecting: impl Future<Output = std::io::Result<S>>) -> Result<S, ConnectError> {
        let limit = self.deadlines.connect;
        let slow = || ConnectError::Slow { target: self.target.clone(), what: "answer", limit };
        let reached = tokio::time::timeout(limit, connecting).await.map_err(|_| slow())?;
        reached.map_err(|source| self.unreachable(source))
    }

    fn unreachable(&self, source: std::io::Error) -> ConnectError {
        ConnectError::Unreachable { target: self.target.clone(), source }
    }

    async fn in_time(
        &self,
        greeting: impl Future<Output = std::io::Result<Box<dyn Stream>>>,
    ) -> Result<Box<dyn Stream>, ConnectError> {
        let limit = self.deadlines.handshake;
        let slow = || ConnectError::Slow { target: self.target.clone(), what: "shake hands", limit };
        let greeted = tokio::time::timeout(limit, greeting).await.map_err(|_| slow())?;
        greeted.map_err(|error| self.explain(error))
    }

    /// Waits for the agent's first bytes and leaves them to be read.
    async fn greeted(&self, stream: impl Stream + 'static) -> std::io::Result<Box<dyn Stream>> {
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().await?.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Box::new(stream))
    }

    fn explain(&self, error: std::io::Error) -> ConnectError {
        let target = self.target.clone();
        let Some(tls) = tls_error(&error) else {
            return match error.kind() {
                std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::BrokenPipe => ConnectError::Closed(target),
                _ => ConnectError::Handshake { target, source: error },
            };
        };
        if let Some(why) = refusal(tls) {
            return ConnectError::Refused { target, why };
        }
        let rustls::Error::InvalidCertificate(invalid) = tls else {
            return ConnectError::Handshake { target, source: error };
        };
        match invalid {
            CertificateError::ExpiredContext { time, not_after } => {
                let (bound, now) = (timestamp(*not_after), timestamp(*time));
                ConnectError::Time { target, what: "ended at", bound, now }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                let (bound, now) = (timestamp(*not_before), timestamp(*time));
                ConnectError::Time { target, what: "begins at", bound, now }
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => ConnectError::UnknownAuthority(target),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                ConnectError::SomebodyElse { target, why: "its certificate is not for servers".to_owned() }
            }
            CertificateError::Other(other) if other.0.is::<NotThatAgent>() => {
                ConnectError::SomebodyElse { target, why: other.0.to_string() }
            }
            _ => ConnectError::Handshake { target, source: error },
        }
    }
}

/// Finds the TLS error in an error or in what it wraps.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    }
    error.downcast_ref::<rustls::Error>()
}

/// Says why an agent that sent an alert does not accept the client; none when it sent none.
fn refusal(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::AlertReceived(alert) = error else { return None };
    Some(match *alert {
        AlertDescription::CertificateExpired => {
            "the certificate has expired or is not valid yet by the agent's clock; renew it, or compare the clocks"
        }
        AlertDescription::CertificateRevoked => "the certificate is revoked",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the certificate is not from an authority that the agent trusts"
        }
        AlertDescription::CertificateRequired => "it needs a certificate",
        AlertDescription::UnsupportedCertificate => "the certificate is not for clients",
        AlertDescription::BadCertificate => "the certificate is bad",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        AlertDescription::NoApplicationProtocol => "it does not speak HTTP/2",
        _ => "it broke off the handshake; its log says why",
    })
}

fn timestamp(time: UnixTime) -> Timestamp {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}
