//! A strict double of the Kubernetes API server: it reviews tokens and access, and refuses whatever a real one would.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
pub const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// What is wrong with the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Takes requests and never answers.
    Silent,
    /// Answers so many requests with this status, then as it should.
    Status(u16, usize),
    /// An answer that is another object.
    OtherKind,
    /// One that is no JSON.
    Nonsense,
    /// One without a status.
    NoStatus,
}

/// What the double knows and saw.
pub struct World {
    /// The token that the sidecar must show.
    pub credential: String,
    /// Tokens, and whose they are.
    pub users: HashMap<String, &'static str>,
    /// Who may do what to which path.
    pub rules: Vec<(&'static str, &'static str, &'static str)>,
    pub fault: Fault,
    /// Tokens reviewed.
    pub tokens: Vec<String>,
    /// Access reviewed: user, verb, path.
    pub accesses: Vec<(String, String, String)>,
    /// What no real server would take.
    pub complaints: Vec<String>,
}

pub struct ApiServer {
    pub address: SocketAddr,
    pub world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Speaks TLS if it is given an acceptor.
    pub async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World {
            credential: "sidecar-1".to_owned(),
            users: HashMap::new(),
            rules: Vec::new(),
            fault: Fault::None,
            tokens: Vec::new(),
            accesses: Vec::new(),
            complaints: Vec::new(),
        }));
        let shared = Arc::clone(&world);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (world, tls) = (Arc::clone(&shared), tls.clone());
                open.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&world), request));
                    let _ = match tls {
                        None => http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => Ok(()),
                        },
                    };
                });
            }
        });
        Self { address, world, task }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(world: Arc<Mutex<World>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let fault = world.lock().unwrap().fault.clone();
    match fault {
        Fault::Silent => std::future::pending::<()>().await,
        Fault::Status(status, left) if left > 0 => {
            world.lock().unwrap().fault = Fault::Status(status, left - 1);
            return Ok(respond(
                status,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}),
            ));
        }
        _ => {}
    }
    let mut world = world.lock().unwrap();
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if header("authorization") != format!("Bearer {}", world.credential) {
        return Ok(respond(401, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 401})));
    }
    let path = head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (version, kind) = match path.as_str() {
        TOKEN_REVIEWS => ("authentication.k8s.io/v1", "TokenReview"),
        ACCESS_REVIEWS => ("authorization.k8s.io/v1", "SubjectAccessReview"),
        _ => ("", ""),
    };
    let has_only = |object: &Value, known: &[&str]| {
        object.as_object().is_some_and(|members| members.keys().all(|key| known.contains(&key.as_str())))
    };
    let is_strict = head.method == "POST"
        && header("content-type") == "application/json"
        && header("accept") == "application/json"
        && !kind.is_empty()
        && review["apiVersion"] == version
        && review["kind"] == kind
        && has_only(&review, &["apiVersion", "kind", "spec"]);
    let spec = &review["spec"];
    let status = match kind {
        "TokenReview" if is_strict && has_only(spec, &["token"]) && spec["token"].is_string() => {
            let token = spec["token"].as_str().unwrap().to_owned();
            let user = world.users.get(&token).copied();
            world.tokens.push(token);
            match user {
                Some(user) => json!({"authenticated": true, "user": {
                    "username": user, "uid": "1-2-3", "groups": ["system:serviceaccounts", "system:authenticated"],
                    "extra": {"authentication.kubernetes.io/credential-id": ["JTI=1"]},
                }, "audiences": ["https://kubernetes.default.svc"]}),
                None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
            }
        }
        "SubjectAccessReview"
            if is_strict
                && has_only(spec, &["user", "uid", "groups", "extra", "nonResourceAttributes"])
                && has_only(&spec["nonResourceAttributes"], &["path", "verb"])
                && spec["uid"] == "1-2-3"
                && spec["groups"] == json!(["system:serviceaccounts", "system:authenticated"])
                && spec["extra"] == json!({"authentication.kubernetes.io/credential-id": ["JTI=1"]}) =>
        {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (user, attributes) = (text(&spec["user"]), &spec["nonResourceAttributes"]);
            let (verb, path) = (text(&attributes["verb"]), text(&attributes["path"]));
            let allowed = world.rules.iter().any(|rule| {
                let paths = rule.2.strip_suffix('*').map_or(path == rule.2, |start| path.starts_with(start));
                (rule.0, rule.1) == (user.as_str(), verb.as_str()) && paths
            });
            // `system:discovery`, which every cluster has, lets whoever is known get these.
            let is_discovery = verb == "get" && ["/api/", "/apis/"].iter().any(|start| path.starts_with(start));
            let allowed = allowed || is_discovery;
            world.accesses.push((user, verb, path));
            json!({"allowed": allowed})
        }
        _ => {
            world.complaints.push(format!("{} {path} {:?} {review}", head.method, head.headers));
            return Ok(respond(400, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400})));
        }
    };
    let metadata = json!({"creationTimestamp": null});
    let review = json!({"kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec, "status": status});
    Ok(match world.fault {
        Fault::OtherKind => respond(201, &json!({"kind": "Status", "apiVersion": "v1", "status": status})),
        Fault::Nonsense => Response::new(Full::from("<html>")),
        Fault::NoStatus => respond(201, &json!({"kind": kind, "apiVersion": version, "spec": spec})),
        _ => respond(201, &review),
    })
}

fn respond(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::from(body.to_string())).unwrap()
}
