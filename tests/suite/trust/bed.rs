//! One agent's door with a service behind it that says who has come in.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rbctl::fleet::connect::Target;
use rollback::wire::v1::agent_server::{Agent, AgentServer};
use rollback::wire::v1::*;
use rollback_agent::config::Tls;
use rollback_agent::ports::Clock;
use rollback_agent::rpc::authz::Caller;
use rollback_agent::rpc::denials::{AccessDenied, Denials};
use rollback_agent::rpc::local::LocalSocket;
use rollback_agent::rpc::server::{MESSAGE_BYTES_MAX, serve};
use rollback_agent::rpc::tls::HotTls;
use rollback_tests::pki::TestAuthority;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::codegen::tokio_stream::Stream;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// The name of the bed's host.
pub(crate) const HOST: &str = "web01";

/// The real clock, and how far it is turned.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicI64>, Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn turn(&self, by: SignedDuration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    pub(crate) fn shared(self) -> Arc<dyn Clock> {
        Arc::new(self)
    }
}

#[async_trait::async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::SeqCst))
    }
    fn boot(&self) -> String {
        String::new()
    }
    fn boottime(&self) -> Duration {
        // Every question is in a window of its own, so that no report is suppressed.
        Duration::from_secs(self.1.fetch_add(60, Ordering::SeqCst))
    }
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
    fn random(&self) -> [u8; 10] {
        [7; 10]
    }
}

/// An agent's door, open on loopback and on a local socket until it is dropped.
pub(crate) struct Bed {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<HotTls>,
    denied: mpsc::UnboundedReceiver<AccessDenied>,
    runtime: tempfile::TempDir,
    served: JoinHandle<()>,
    open: DropGuard,
}

impl Bed {
    pub(crate) fn start(files: Tls, clock: TestClock) -> Self {
        let clock = clock.shared();
        let tls = HotTls::open(files, HOST.parse().expect("a name"), Arc::clone(&clock)).expect("good files");
        let tls = Arc::new(tls);
        let (sender, denied) = mpsc::unbounded_channel();
        let denials = Arc::new(Denials::new(clock, move |denied| drop(sender.send(denied))));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let listener = tokio::net::TcpListener::from_std(listener).expect("in a runtime");
        let routes = Routes::new(AgentServer::new(Mirror).max_decoding_message_size(MESSAGE_BYTES_MAX));
        let token = CancellationToken::new();
        let runtime = tempfile::tempdir().expect("a directory");
        let local = LocalSocket::bind(&runtime.path().join("agent.sock")).expect("a socket");
        tokio::spawn(local.serve(routes.clone(), Arc::clone(&denials), token.clone()));
        let serving = serve(listener, Arc::clone(&tls), routes, denials, token.clone());
        let served = tokio::spawn(async move { serving.await.expect("the server does not fail") });
        Self { address, tls, denied, runtime, served, open: token.drop_guard() }
    }

    pub(crate) fn target(&self) -> Target {
        target(HOST, self.address)
    }

    pub(crate) fn local(&self) -> Target {
        Target::Local { socket: self.runtime.path().join("agent.sock") }
    }

    /// Waits for the next report of somebody who was denied.
    pub(crate) async fn denied(&mut self) -> AccessDenied {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.denied.recv());
        wait.await.expect("a denial is reported").expect("the bed is open")
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) async fn stop(self) {
        drop(self.open);
        self.served.await.expect("no panic");
    }

    /// Shakes hands without a certificate, as far as it goes.
    pub(crate) async fn shake_hands_anonymously(&self, authority: &TestAuthority) -> std::io::Result<()> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(authority.path("ca.crt")).expect("the authority's certificate");
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(HOST).expect("a name");
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.read_u8().await.map(drop)
    }
}

pub(crate) fn target(name: &str, address: SocketAddr) -> Target {
    Target::Remote { name: name.parse().expect("a name"), address: address.to_string() }
}

/// Calls a method by its path.
pub(crate) async fn call(channel: Channel, path: &'static str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<StatusRequest, StatusReply>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    grpc.unary(Request::new(StatusRequest::default()), path, codec).await.map(drop)
}

/// Answers a status with the caller's identity and a watch with silence.
struct Mirror;

type Reply<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn nothing<T>() -> Reply<T> {
    Err(Status::unimplemented("not in this bed"))
}

#[tonic::async_trait]
impl Agent for Mirror {
    type RollbackStream = Events<OperationEvent>;
    type DeployStream = Events<OperationEvent>;
    type VerifyStream = Events<VerifyEvent>;
    type PushReleaseStream = Events<PushEvent>;
    type WatchStream = Events<OperationEvent>;

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusReply> {
        let caller = request.extensions().get::<Caller>().expect("the gate has put it there");
        Ok(Response::new(StatusReply { version: caller.to_string(), ..StatusReply::default() }))
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        Ok(Response::new(Box::pin(tonic::codegen::tokio_stream::pending())))
    }
    async fn plan(&self, _: Request<PlanRequest>) -> Reply<PlanReply> {
        nothing()
    }
    async fn rollback(&self, _: Request<RollbackRequest>) -> Reply<Self::RollbackStream> {
        nothing()
    }
    async fn deploy(&self, _: Request<DeployRequest>) -> Reply<Self::DeployStream> {
        nothing()
    }
    async fn confirm(&self, _: Request<ConfirmRequest>) -> Reply<ConfirmReply> {
        nothing()
    }
    async fn decide(&self, _: Request<DecideRequest>) -> Reply<DecideReply> {
        nothing()
    }
    async fn alert(&self, _: Request<AlertRequest>) -> Reply<AlertReply> {
        nothing()
    }
    async fn set_quarantine(&self, _: Request<SetQuarantineRequest>) -> Reply<SetQuarantineReply> {
        nothing()
    }
    async fn mark_release(&self, _: Request<MarkReleaseRequest>) -> Reply<MarkReleaseReply> {
        nothing()
    }
    async fn push_release(&self, _: Request<Streaming<PushRequest>>) -> Reply<Self::PushReleaseStream> {
        nothing()
    }
    async fn list_releases(&self, _: Request<ListReleasesRequest>) -> Reply<ListReleasesReply> {
        nothing()
    }
    async fn verify(&self, _: Request<VerifyRequest>) -> Reply<Self::VerifyStream> {
        nothing()
    }
    async fn history(&self, _: Request<HistoryRequest>) -> Reply<HistoryReply> {
        nothing()
    }
    async fn show(&self, _: Request<ShowRequest>) -> Reply<ShowReply> {
        nothing()
    }
    async fn stats(&self, _: Request<StatsRequest>) -> Reply<StatsReply> {
        nothing()
    }
    async fn audit(&self, _: Request<AuditRequest>) -> Reply<AuditReply> {
        nothing()
    }
}
