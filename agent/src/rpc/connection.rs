//! One accepted connection: who is at its other end, its place among all others, and its end from outside.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::certificate::Certificate;

/// Connections at a time over all addresses, handshakes included: a fleet's operators need a handful, each costs
/// about 100 KiB.
pub const CONNECTIONS_MAX: usize = 1024;
/// Connections at a time from one address, so that one address cannot take all places.
pub const CONNECTIONS_PER_PEER_MAX: usize = 64;

/// Who is at the other end; proved by the handshake or by the kernel.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// Somebody with a verified certificate.
    Remote {
        /// What the certificate says.
        certificate: Arc<Certificate>,
        /// Where it came from.
        peer: SocketAddr,
    },
    /// A process of this host.
    Local {
        /// Its user.
        uid: u32,
    },
}

/// All open connections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    per_peer: HashMap<Option<IpAddr>, usize>,
    open: HashMap<u64, Open>,
    next: u64,
}

#[derive(Debug)]
struct Open {
    certificate: Option<Arc<Certificate>>,
    end: CancellationToken,
}

impl Connections {
    /// Takes a place; none when all are taken, or all of that address (of this host when there is no address).
    pub(crate) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Place> {
        let peer = peer.map(|address| address.to_canonical());
        let mut state = self.state();
        if state.open.len() >= CONNECTIONS_MAX {
            return None;
        }
        let count = state.per_peer.entry(peer).or_default();
        if *count >= CONNECTIONS_PER_PEER_MAX {
            return None;
        }
        *count += 1;
        let id = state.next;
        state.next += 1;
        let end = CancellationToken::new();
        state.open.insert(id, Open { certificate: None, end: end.clone() });
        Some(Place { connections: Arc::clone(self), peer, id, end })
    }

    /// Ends every connection whose certificate meets an objection.
    pub(crate) fn end_where(&self, objectionable: impl Fn(&Certificate) -> bool) {
        for open in self.state().open.values() {
            if open.certificate.as_deref().is_some_and(&objectionable) {
                open.end.cancel();
            }
        }
    }

    /// Ends all connections.
    pub(crate) fn end_all(&self) {
        self.state().open.values().for_each(|open| open.end.cancel());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the connections; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    peer: Option<IpAddr>,
    id: u64,
    end: CancellationToken,
}

impl Place {
    /// Puts an authenticated stream on the place.
    pub(crate) fn seat<IO>(self, io: IO, origin: Origin) -> Connection<IO> {
        if let Origin::Remote { certificate, .. } = &origin
            && let Some(open) = self.connections.state().open.get_mut(&self.id)
        {
            open.certificate = Some(Arc::clone(certificate));
        }
        Connection { io, origin, end: Box::pin(self.end.clone().cancelled_owned()), _place: self }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        state.open.remove(&self.id);
        if let Some(count) = state.per_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                state.per_peer.remove(&self.peer);
            }
        }
    }
}

/// An authenticated connection.
pub(crate) struct Connection<IO> {
    io: IO,
    origin: Origin,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        self.origin.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        // Reading is always polled by HTTP/2, so this is where the end from outside is noticed.
        if this.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places_and_places_are_given_back() {
        let connections = Arc::new(Connections::default());
        let greedy: IpAddr = "192.0.2.1".parse().expect("an address");
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        let other: IpAddr = "192.0.2.2".parse().expect("an address");
        let mut places: Vec<Place> =
            (0..CONNECTIONS_PER_PEER_MAX).map(|_| connections.admit(Some(greedy)).expect("a place")).collect();
        assert!(connections.admit(Some(greedy)).is_none());
        assert!(connections.admit(Some(mapped)).is_none(), "the same address in other clothes");
        assert!(connections.admit(Some(other)).is_some());
        places.pop();
        assert!(connections.admit(Some(greedy)).is_some());
        drop(places);
        assert!(connections.state().per_peer.is_empty() && connections.state().open.is_empty());
    }

    #[test]
    fn places_end_in_all() {
        let connections = Arc::new(Connections::default());
        let places: Vec<Place> = (0..CONNECTIONS_MAX)
            .map(|n| connections.admit(Some(IpAddr::from([10, 0, (n >> 8) as u8, (n & 255) as u8]))).expect("a place"))
            .collect();
        assert!(connections.admit(Some(IpAddr::from([10, 1, 0, 0]))).is_none());
        drop(places);
    }
}
