//! Who may call what: one table, nothing by default, asked before any handler runs.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rollback::model::identity::{Identity, Role};
use rollback::model::ids::Environment;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::certificate::Serial;
use super::connection::Origin;
use super::denials::Denials;
use super::tls::HotTls;

/// The domain of the agent's error details.
pub const ERROR_DOMAIN: &str = "rollback.v1";

const SEE: &[Role] = &[Role::Viewer, Role::Operator, Role::Admin, Role::BreakGlass];
const CHANGE: &[Role] = &[Role::Operator, Role::Admin, Role::BreakGlass];

/// Every method and the roles that may call it; one of them suffices. The local socket may call all of them.
pub const RULES: &[(&str, &[Role])] = &[
    ("/rollback.v1.Agent/Plan", SEE),
    ("/rollback.v1.Agent/Rollback", CHANGE),
    ("/rollback.v1.Agent/Deploy", CHANGE),
    ("/rollback.v1.Agent/Confirm", CHANGE),
    ("/rollback.v1.Agent/Decide", CHANGE),
    ("/rollback.v1.Agent/Alert", CHANGE),
    ("/rollback.v1.Agent/SetQuarantine", CHANGE),
    ("/rollback.v1.Agent/MarkRelease", CHANGE),
    ("/rollback.v1.Agent/PushRelease", CHANGE),
    ("/rollback.v1.Agent/ListReleases", SEE),
    ("/rollback.v1.Agent/Verify", SEE),
    ("/rollback.v1.Agent/Status", SEE),
    ("/rollback.v1.Agent/History", SEE),
    ("/rollback.v1.Agent/Show", SEE),
    ("/rollback.v1.Agent/Stats", SEE),
    ("/rollback.v1.Agent/Audit", SEE),
    ("/rollback.v1.Agent/Watch", SEE),
    ("/grpc.health.v1.Health/Check", SEE),
    ("/grpc.health.v1.Health/Watch", SEE),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", SEE),
];

/// Who calls, as proved by a certificate or by the kernel; in the extensions of every request that reaches a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody with a certificate.
    Remote {
        /// Who.
        identity: Identity,
        /// The serial number of the certificate.
        serial: Serial,
        /// Where from.
        peer: SocketAddr,
    },
    /// Root, or the agent's own user, on this host.
    Local {
        /// Which user.
        uid: u32,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote { identity, .. } => write!(f, "{identity}"),
            Self::Local { uid } => write!(f, "local:uid={uid}"),
        }
    }
}

impl Caller {
    /// Tells whether the caller may touch components of an environment. Agents may touch none.
    #[must_use]
    pub fn covers(&self, environment: &Environment) -> bool {
        match self {
            Self::Remote { identity: Identity::Operator { scope, .. }, .. } => scope.covers(environment),
            Self::Remote { identity: Identity::Agent { .. }, .. } => false,
            Self::Local { .. } => true,
        }
    }

    /// Tells whether the caller has a role; the local socket has all.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        match self {
            Self::Remote { identity: Identity::Operator { roles, .. }, .. } => roles.contains(&role),
            Self::Remote { identity: Identity::Agent { .. }, .. } => false,
            Self::Local { .. } => true,
        }
    }

    /// Where the caller is: its address, or `local`.
    #[must_use]
    pub fn peer(&self) -> String {
        match self {
            Self::Remote { peer, .. } => peer.to_string(),
            Self::Local { .. } => "local".to_owned(),
        }
    }
}

/// Says why a call is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The table has no such method.
    #[error("this agent has no method {0:?}")]
    NoRule(String),
    /// An agent asked.
    #[error("{0} is an agent, and agents may call nothing")]
    Agent(String),
    /// The caller has none of the roles.
    #[error("{caller} may not call {method}: that needs {needed}")]
    Role {
        /// Who asked.
        caller: String,
        /// For what.
        method: String,
        /// The roles that would do.
        needed: String,
    },
    /// The certificate was good at the handshake and is not any more, or nothing proves who calls.
    #[error("{0}")]
    Unproved(String),
}

impl Denied {
    /// Translates to what the client gets: a code, the sentence, and a reason for programs.
    #[must_use]
    pub fn status(&self) -> Status {
        let (code, reason) = match self {
            Self::NoRule(_) => (Code::Unimplemented, "NO_SUCH_METHOD"),
            Self::Agent(_) | Self::Role { .. } => (Code::PermissionDenied, "NOT_ALLOWED"),
            Self::Unproved(_) => (Code::Unauthenticated, "NOT_AUTHENTICATED"),
        };
        let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
        Status::with_error_details(code, self.to_string(), details)
    }
}

/// Decides by the table whether a caller may call a method, given by its path.
///
/// # Errors
/// When it may not, with the reason.
pub fn authorize(method: &str, caller: &Caller) -> Result<(), Denied> {
    let Some((_, roles)) = RULES.iter().find(|(path, _)| *path == method) else {
        return Err(Denied::NoRule(method.chars().take(200).collect()));
    };
    match caller {
        Caller::Remote { identity: identity @ Identity::Agent { .. }, .. } => Err(Denied::Agent(identity.to_string())),
        Caller::Remote { identity: Identity::Operator { .. }, .. } | Caller::Local { .. } => {
            if roles.iter().any(|role| caller.has(*role)) {
                return Ok(());
            }
            let needed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
            let needed = needed.join(" or ");
            Err(Denied::Role { caller: caller.to_string(), method: method.to_owned(), needed })
        }
    }
}

/// Stands before the services: puts the [`Caller`] into every request, and lets nothing through that the table denies.
#[derive(Debug, Clone)]
pub(crate) struct Gate<S> {
    pub(crate) services: S,
    pub(crate) tls: Option<Arc<HotTls>>,
    pub(crate) denials: Arc<Denials>,
}

impl<S> Gate<S> {
    fn admit<B>(&self, request: &mut http::Request<B>) -> Result<(), Denied> {
        let method = request.uri().path().to_owned();
        let Some(origin) = request.extensions().get::<Origin>().cloned() else {
            return Err(Denied::Unproved("nothing proves who calls".to_owned()));
        };
        let (caller, objection) = match origin {
            Origin::Remote { certificate, peer } => {
                let objection = self.tls.as_ref().and_then(|tls| tls.objection(&certificate));
                let serial = certificate.serial.clone();
                (Caller::Remote { identity: certificate.identity.clone(), serial, peer }, objection)
            }
            Origin::Local { uid } => (Caller::Local { uid }, None),
        };
        let decision = objection.map_or_else(|| authorize(&method, &caller), |why| Err(Denied::Unproved(why)));
        if let Err(denied) = &decision {
            self.denials.known(&caller.to_string(), &caller.peer(), &method, &denied.to_string());
        }
        request.extensions_mut().insert(caller);
        decision
    }
}

type Reply<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Reply<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.admit(&mut request) {
            Ok(()) => Box::pin(self.services.call(request)),
            Err(denied) => Box::pin(std::future::ready(Ok(denied.status().into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use rollback::model::identity::Scope;

    use super::*;

    fn operator(roles: &[Role]) -> Caller {
        let identity = Identity::Operator {
            domain: "example".parse().expect("a name"),
            name: "alice".parse().expect("a name"),
            roles: roles.iter().copied().collect(),
            scope: Scope::Only(BTreeSet::from(["prod".parse().expect("a name")])),
        };
        remote(identity)
    }

    fn remote(identity: Identity) -> Caller {
        let peer = "192.0.2.1:1".parse().expect("an address");
        Caller::Remote { identity, serial: Serial::from_bytes(&[1]), peer }
    }

    fn agent() -> Caller {
        let domain = "example".parse().expect("a name");
        remote(Identity::Agent { domain, host: "web01".parse().expect("a name") })
    }

    fn methods(descriptors: &[u8]) -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(descriptors).expect("descriptors of this build");
        let mut methods = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        methods
    }

    #[test]
    fn every_method_has_one_rule_and_every_rule_has_a_method() {
        let served: BTreeSet<String> = [
            rollback::wire::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .flat_map(methods)
        .collect();
        let ruled: BTreeSet<String> = RULES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(served, ruled);
        assert_eq!(ruled.len(), RULES.len(), "no method has two rules");
    }

    #[test]
    fn every_cell_of_the_table_is_as_designed() {
        for (method, _) in RULES {
            let changes =
                ["Rollback", "Deploy", "Confirm", "Decide", "Alert", "SetQuarantine", "MarkRelease", "PushRelease"]
                    .iter()
                    .any(|name| *method == format!("/rollback.v1.Agent/{name}"));
            for role in Role::ALL {
                let allowed = !changes || role != Role::Viewer;
                assert_eq!(authorize(method, &operator(&[role])).is_ok(), allowed, "{method} by {role}");
            }
            assert!(authorize(method, &operator(&[Role::Viewer, Role::Admin])).is_ok());
            assert!(authorize(method, &Caller::Local { uid: 0 }).is_ok());
            assert!(matches!(authorize(method, &agent()), Err(Denied::Agent(_))), "{method} by an agent");
        }
    }

    #[test]
    fn what_has_no_rule_is_denied_to_everybody() {
        for method in ["", "/", "/rollback.v1.Agent/Forget", "/rollback.v1.Agent/status", "//rollback.v1.Agent/Status"]
        {
            for caller in [Caller::Local { uid: 0 }, operator(&Role::ALL), agent()] {
                assert!(matches!(authorize(method, &caller), Err(Denied::NoRule(_))), "{method:?}");
            }
        }
    }

    #[test]
    fn scope_bounds_operators_and_shuts_out_agents() {
        let (prod, test): (Environment, Environment) =
            ("prod".parse().expect("a name"), "test".parse().expect("a name"));
        assert!(operator(&[Role::Operator]).covers(&prod) && !operator(&[Role::Operator]).covers(&test));
        assert!(!agent().covers(&prod));
        assert!(Caller::Local { uid: 0 }.covers(&test));
    }

    #[test]
    fn callers_are_written_as_their_identity() {
        assert_eq!(Caller::Local { uid: 0 }.to_string(), "local:uid=0");
        assert_eq!(agent().to_string(), "rollback://example/agent/web01");
    }
}
