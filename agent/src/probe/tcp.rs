//! The `tcp` probe: somebody accepts a connection.

use tokio::net::TcpStream;

use super::{Seen, io_words};
use crate::config::TcpProbe;

/// Passes when a connection is made; it is closed at once.
pub(super) async fn ask(probe: &TcpProbe) -> Seen {
    match TcpStream::connect(&probe.address).await {
        Ok(_) => Ok("connection accepted".to_owned()),
        Err(error) => Err(io_words(&error)),
    }
}
