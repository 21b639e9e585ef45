//! Accepts operators over mutual TLS 1.3, bounds everything, and feeds `tonic`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rollback::chain::Chain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::authz::Gate;
use super::certificate::{Certificate, CertificateError};
use super::connection::{Connection, Connections, Origin, Place};
use super::denials::Denials;
use super::tls::{HotTls, Reloaded};

pub use super::connection::{CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX};

/// Longest handshake: two round trips and two signatures need far less, also over a bad line.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Age at which a connection is asked to end after its calls, so that load and trust are spread anew.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// How often files are looked at and open connections are judged again: a revocation is effective within a minute,
/// also when no file watcher has noticed it.
pub const TRUST_INTERVAL: Duration = Duration::from_secs(20);
/// How long calls may go on when the agent stops; operations do not depend on them.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Calls at a time on one connection.
pub const STREAMS_MAX: u32 = 64;
/// Resets by the client that wait to be noticed (CVE-2023-44487).
pub const PENDING_RESETS_MAX: usize = 20;
/// Resets that the agent makes for malformed calls before it ends the connection (RUSTSEC-2024-0003).
pub const LOCAL_RESETS_MAX: usize = 1024;
/// Largest HTTP/2 frame; the protocol's minimum.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// Largest list of headers.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Bytes in flight towards the agent per call: what a push needs to fill a line of a Gbit/s over 4 ms; others need less.
pub const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Bytes in flight towards the agent per connection: bounds what a connection can make the agent hold.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Longest time until a call answers; streams answer at once and may then go on.
pub const CALL_LIMIT: Duration = Duration::from_secs(120);
/// How often a silent peer is asked whether it lives, so that dead ones give their places back.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long a peer may take to answer that.
pub const KEEPALIVE_LIMIT: Duration = Duration::from_secs(10);
/// Largest request; a saved plan is the largest that is sent. For the services' decoders.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Authenticated connections that wait to be served.
const ACCEPTED_MAX: usize = 16;
/// Pause after the listener failed (no file descriptors, mostly), so that the loop does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves operators until `token` is cancelled and the connections have drained, at most [`DRAIN_LIMIT`].
///
/// Meanwhile the files of `tls` are looked at every [`TRUST_INTERVAL`], and connections of revoked or expired
/// certificates are ended. Peers that do not get in, and calls that the table denies, go to `denials`.
///
/// # Errors
/// When the HTTP/2 server fails; a connection that fails is not that.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<HotTls>,
    routes: Routes,
    denials: Arc<Denials>,
    token: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let connections = Arc::new(Connections::default());
    let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
    let door = Arc::new(Door { tls: Arc::clone(&tls), denials: Arc::clone(&denials), accepted: sender });
    let gate = Gate { services: routes.prepare(), tls: Some(Arc::clone(&tls)), denials };
    let served = feed(gate, accepted, Arc::clone(&connections), token.clone());
    let accepting = accept(listener, door, Arc::clone(&connections), token.clone());
    let trusting = keep_trust(&tls, &connections);
    tokio::pin!(served);
    tokio::select! {
        result = &mut served => return result,
        () = accepting => {}
        () = trusting => {}
    }
    served.await
}

/// Feeds authenticated connections to `tonic` with every limit set; its own defaults are none.
pub(crate) async fn feed<IO>(
    gate: Gate<Routes>,
    accepted: mpsc::Receiver<Connection<IO>>,
    connections: Arc<Connections>,
    token: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    // Never an `Err`: an error in this stream has ended accept loops before (CVE-2024-47609).
    let incoming = ReceiverStream::new(accepted).map(Ok::<_, std::convert::Infallible>);
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(STREAMS_MAX as usize)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
        .max_connection_age(CONNECTION_AGE_MAX)
        .timeout(CALL_LIMIT)
        .serve_with_incoming_shutdown(gate, incoming, token.clone().cancelled_owned());
    let drained = async {
        token.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
        connections.end_all();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = served => result,
        () = drained => Ok(()),
    }
}

/// What a new connection passes through.
struct Door {
    tls: Arc<HotTls>,
    denials: Arc<Denials>,
    accepted: mpsc::Sender<Connection<TlsStream<TcpStream>>>,
}

async fn accept(listener: TcpListener, door: Arc<Door>, connections: Arc<Connections>, token: CancellationToken) {
    let mut handshakes = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            () = token.cancelled() => return,
            Some(_) = handshakes.join_next() => continue,
            incoming = listener.accept() => incoming,
        };
        let (stream, peer) = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match connections.admit(Some(peer.ip())) {
            Some(place) => {
                handshakes.spawn(Arc::clone(&door).enter(stream, peer, place));
            }
            None => door.denials.stranger(&peer.to_string(), "too many connections, in all or from this address"),
        }
    }
}

/// Says why a peer was not let in.
#[derive(Debug, thiserror::Error)]
enum EntryError {
    #[error("cannot set up the socket")]
    Socket(#[source] std::io::Error),
    #[error("the handshake took longer than {} s", HANDSHAKE_LIMIT.as_secs())]
    Slow,
    #[error("the handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the peer showed no certificate")]
    Anonymous,
    #[error("the peer's certificate names nobody here")]
    Nobody(#[source] CertificateError),
}

impl Door {
    async fn enter(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, place: Place) {
        match self.shake_hands(stream).await {
            Ok((stream, certificate)) => {
                let origin = Origin::Remote { certificate: Arc::new(certificate), peer };
                // The receiver is gone only when the agent stops.
                drop(self.accepted.send(place.seat(stream, origin)).await);
            }
            Err(error) => self.denials.stranger(&peer.to_string(), &Chain(&error).to_string()),
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Certificate), EntryError> {
        stream.set_nodelay(true).map_err(EntryError::Socket)?;
        let acceptor = TlsAcceptor::from(self.tls.current().server());
        let stream = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream))
            .await
            .map_err(|_| EntryError::Slow)?
            .map_err(EntryError::Handshake)?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(EntryError::Anonymous)?;
        let certificate = Certificate::read(leaf).map_err(EntryError::Nobody)?;
        if certificate.identity.domain() != self.tls.domain() {
            return Err(EntryError::Nobody(CertificateError::Domain {
                found: certificate.identity.domain().to_string(),
                expected: self.tls.domain().to_string(),
            }));
        }
        Ok((stream, certificate))
    }
}

async fn keep_trust(tls: &Arc<HotTls>, connections: &Connections) {
    let mut ticks = tokio::time::interval(TRUST_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failure = None;
    loop {
        let changed = tls.changed();
        tokio::select! {
            () = changed => {}
            _ = ticks.tick() => {
                let files = Arc::clone(tls);
                let outcome = tokio::task::spawn_blocking(move || files.reload()).await;
                let Ok(outcome) = outcome else { continue };
                let now = outcome.as_ref().err().map(|error| Chain(error).to_string());
                match (&outcome, &now) {
                    (Ok(Reloaded::Replaced), _) => tracing::info!("new keys and lists are in force"),
                    (Err(_), Some(why)) if now != failure => tracing::error!(why, "new keys or lists are refused"),
                    (Ok(Reloaded::Unchanged) | Err(_), _) => {}
                }
                failure = now;
            }
        }
        connections.end_where(|certificate| tls.objection(certificate).is_some());
    }
}
