//! The socket of the host itself: root's way in when certificates, lists or the network fail.
//!
//! The kernel says who calls. Only root and the agent's own user are let in; they may call everything, and all of it
//! is audited like everything else.

#![expect(clippy::disallowed_methods, reason = "this module makes and removes the socket")]

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::authz::Gate;
use super::connection::{Connection, Connections, Origin};
use super::denials::Denials;
use super::server::feed;

/// Mode of the socket: only its owner and root.
const SOCKET_MODE: u32 = 0o600;
/// Mode of its directory, which closes the gap between making the socket and setting its mode.
const DIRECTORY_MODE: u32 = 0o700;
/// Connections that wait to be served.
const ACCEPTED_MAX: usize = 16;

/// Says why there is no local socket.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// An attempt on the file system failed.
    #[error("cannot {attempt} {path:?}")]
    Failed {
        /// What was attempted.
        attempt: &'static str,
        /// On which object.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory belongs to somebody else, who could put another socket in its place.
    #[error("the directory {path:?} belongs to uid {uid}: it must belong to root or to the agent")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Another agent serves this socket.
    #[error("another agent listens on {0:?}")]
    Taken(PathBuf),
    /// Something else has the socket's name.
    #[error("{0:?} is in the way: it is no socket")]
    InTheWay(PathBuf),
}

/// The bound socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Binds the socket, in a directory that is made when it is missing and closed to others when it is open.
    ///
    /// A socket that nobody listens on (left by an agent that was killed) is replaced. Needs a running `tokio`.
    ///
    /// # Errors
    /// When another agent listens, or the file system refuses.
    pub fn bind(path: &Path) -> Result<Self, LocalError> {
        let failed = |attempt| move |source| LocalError::Failed { attempt, path: path.to_owned(), source };
        close_directory(path.parent().unwrap_or(Path::new("/")))?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed("bind the socket"))?;
        let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
        std::fs::set_permissions(path, mode).map_err(failed("set the mode of"))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves the same services as the network until `token` is cancelled and the calls have drained.
    ///
    /// # Errors
    /// When the HTTP/2 server fails; a connection that fails is not that.
    pub async fn serve(
        self,
        routes: Routes,
        denials: Arc<Denials>,
        token: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let connections = Arc::new(Connections::default());
        let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
        let gate = Gate { services: routes.prepare(), tls: None, denials: Arc::clone(&denials) };
        let served = feed(gate, accepted, Arc::clone(&connections), token);
        tokio::select! {
            result = served => result,
            () = self.accept(&connections, &denials, &sender) => Ok(()),
        }
    }

    /// Accepts for ever; the server ends the loop by ending itself.
    async fn accept(
        &self,
        connections: &Arc<Connections>,
        denials: &Denials,
        accepted: &mpsc::Sender<Connection<UnixStream>>,
    ) {
        loop {
            let (stream, uid) = match self.listener.accept().await.and_then(|(stream, _)| {
                let uid = stream.peer_cred()?.uid();
                Ok((stream, uid))
            }) {
                Ok(incoming) => incoming,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(super::server::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if uid != 0 && uid != geteuid().as_raw() {
                denials.stranger("local", &format!("uid {uid} is neither root nor the agent"));
                continue;
            }
            match connections.admit(None) {
                // The receiver is gone only when the agent stops.
                Some(place) => drop(accepted.send(place.seat(stream, Origin::Local { uid })).await),
                None => denials.stranger("local", "too many connections"),
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "cannot remove the local socket");
        }
    }
}

fn close_directory(directory: &Path) -> Result<(), LocalError> {
    let failed = |attempt| move |source| LocalError::Failed { attempt, path: directory.to_owned(), source };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(failed("make the directory"))?;
    let metadata = std::fs::metadata(directory).map_err(failed("look at"))?;
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return Err(LocalError::Owner { path: directory.to_owned(), uid: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = std::fs::Permissions::from_mode(DIRECTORY_MODE);
        std::fs::set_permissions(directory, mode).map_err(failed("set the mode of"))?;
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), LocalError> {
    let failed = |attempt| move |source| LocalError::Failed { attempt, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(LocalError::InTheWay(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(LocalError::Taken(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) => Err(failed("ask who listens on")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it exists").mode() & 0o777
    }

    #[tokio::test]
    async fn socket_is_closed_to_others_and_goes_with_its_agent() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/agent.sock");
        let socket = LocalSocket::bind(&path).expect("it binds");
        assert_eq!((mode(&path), mode(&directory.path().join("run"))), (0o600, 0o700));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("it binds"));
        let socket = LocalSocket::bind(&path).expect("a stale socket is replaced");
        assert!(matches!(LocalSocket::bind(&path), Err(LocalError::Taken(_))));
        drop(socket);
        std::fs::write(&path, "precious").expect("a file");
        assert!(matches!(LocalSocket::bind(&path), Err(LocalError::InTheWay(_))));
        assert_eq!(std::fs::read(&path).expect("the file"), b"precious");
    }

    #[tokio::test]
    async fn open_directory_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let _socket = LocalSocket::bind(&directory.path().join("agent.sock")).expect("it binds");
        assert_eq!(mode(directory.path()), 0o700);
    }
}
