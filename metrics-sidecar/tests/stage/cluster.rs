//! A strict double of a Kubernetes API server that lists and watches: it refuses whatever a real one would, and forgets old versions on demand.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use futures_util::stream::unfold;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub const PODS: &str = "/api/v1/namespaces/ns/pods";
pub const POOLS: &str = "/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools";
pub const OBJECTIVES: &str = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferenceobjectives";
pub const REWRITES: &str = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencemodelrewrites";
pub const NEWER_OBJECTIVES: &str = "/apis/llm-d.ai/v1alpha2/namespaces/ns/inferenceobjectives";

struct Watcher {
    path: String,
    labels: String,
    name: Option<String>,
    out: mpsc::UnboundedSender<Bytes>,
}

impl Watcher {
    fn selects(&self, object: &Value) -> bool {
        selects(&self.labels, object) && self.name.as_ref().is_none_or(|name| object["metadata"]["name"] == **name)
    }
}

/// What the double has.
#[derive(Default)]
pub struct World {
    objects: BTreeMap<(String, String), Value>,
    served: BTreeSet<String>,
    version: u64,
    /// Changes: version, path, before, after.
    log: Vec<(u64, String, Option<Value>, Option<Value>)>,
    oldest: u64,
    watchers: Vec<Watcher>,
    /// Verbs on plurals that are refused.
    pub forbidden: BTreeSet<(&'static str, &'static str)>,
    /// Requests, as `VERB plural`.
    pub requests: Vec<String>,
    /// What no real server would take.
    pub complaints: Vec<String>,
}

impl World {
    fn tell(&mut self, path: &str, before: Option<Value>, after: Option<Value>) {
        self.log.push((self.version, path.to_owned(), before.clone(), after.clone()));
        for watcher in self.watchers.iter().filter(|watcher| watcher.path == path) {
            if let Some(event) = event(watcher, before.as_ref(), after.as_ref(), self.version) {
                let _ = watcher.out.send(event);
            }
        }
    }

    /// Makes or replaces an object.
    pub fn put(&mut self, path: &str, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("ns");
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects.insert((path.to_owned(), name.to_owned()), object.clone());
        self.tell(path, before, Some(object));
    }

    pub fn delete(&mut self, path: &str, name: &str) {
        self.version += 1;
        let before = self.objects.remove(&(path.to_owned(), name.to_owned()));
        self.tell(path, before, None);
    }

    /// Installs a kind.
    pub fn serve(&mut self, path: &str) {
        self.served.insert(path.to_owned());
    }

    /// Whether a path asks which kinds a version of a group has.
    fn discovers(path: &str) -> bool {
        path.strip_prefix("/apis/").is_some_and(|rest| rest.split('/').count() == 2)
    }

    /// The kinds of the version of a group at a path; `None`: it is no such path, or has no kind.
    fn kinds(&self, path: &str) -> Option<Vec<&str>> {
        let under = format!("{path}/");
        let served = self.served.iter().filter(|served| Self::discovers(path) && served.starts_with(&under));
        let kinds: Vec<_> = served.filter_map(|served| served.rsplit('/').next()).collect();
        (!kinds.is_empty()).then_some(kinds)
    }

    /// Forgets what was before now, and ends all watches.
    pub fn compact(&mut self) {
        self.oldest = self.version;
        self.log.clear();
        self.watchers.clear();
    }

    /// Ends all watches.
    pub fn disconnect(&mut self) {
        self.watchers.clear();
    }

    /// Tells all watchers of a path what no server should.
    pub fn babble(&mut self, path: &str, line: &'static str) {
        for watcher in self.watchers.iter().filter(|watcher| watcher.path == path) {
            let _ = watcher.out.send(Bytes::from_static(line.as_bytes()));
        }
    }

    pub fn bookmark(&mut self, path: &str, kind: &str) {
        self.version += 1;
        let object =
            json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}});
        let line = format!("{}\n", json!({"type": "BOOKMARK", "object": object}));
        for watcher in self.watchers.iter().filter(|watcher| watcher.path == path) {
            let _ = watcher.out.send(Bytes::from(line.clone()));
        }
    }
}

fn event(watcher: &Watcher, before: Option<&Value>, after: Option<&Value>, version: u64) -> Option<Bytes> {
    let was = before.is_some_and(|object| watcher.selects(object));
    let (kind, mut object) = match (was, after.filter(|object| watcher.selects(object))) {
        (false, Some(object)) => ("ADDED", object.clone()),
        (true, Some(object)) => ("MODIFIED", object.clone()),
        (true, None) => ("DELETED", before?.clone()),
        (false, None) => return None,
    };
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    Some(Bytes::from(format!("{}\n", json!({"type": kind, "object": object}))))
}

fn selects(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| match term.split_once("!=") {
        Some((label, value)) => object["metadata"]["labels"][label] != value,
        None => {
            let (label, value) = term.split_once('=').unwrap();
            object["metadata"]["labels"][label] == value
        }
    })
}

/// A double on a port of its own. Dropping it ends every connection; its world can go on at another one.
pub struct Cluster {
    pub address: SocketAddr,
    pub world: Arc<Mutex<World>>,
    task: JoinHandle<()>,
}

impl Cluster {
    pub async fn start() -> Self {
        let mut world = World { version: 100, ..World::default() };
        world.serve(PODS);
        world.serve(POOLS);
        Self::resume("127.0.0.1:0".parse().unwrap(), Arc::new(Mutex::new(world))).await
    }

    pub async fn resume(address: SocketAddr, world: Arc<Mutex<World>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&world);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let world = Arc::clone(&shared);
                let answer = move |request| {
                    let answer = respond(&mut world.lock().unwrap(), &request);
                    async move { Ok::<_, Infallible>(answer) }
                };
                open.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Self { address, world, task }
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock().unwrap())
    }

    /// Goes away; the port is free then.
    pub async fn stop(self) -> (SocketAddr, Arc<Mutex<World>>) {
        self.task.abort();
        let (address, world) = (self.address, Arc::clone(&self.world));
        let _ = self.task.await;
        world.lock().unwrap().watchers.clear();
        (address, world)
    }
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn respond(world: &mut World, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
    let query: HashMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect();
    let is_watch = query.get("watch").is_some_and(|value| value == "true");
    let verb = if is_watch { "watch" } else { "list" };
    if !World::discovers(&path) {
        world.requests.push(format!("{verb} {plural}"));
    }
    if request.method() != "GET" {
        world.complaints.push(format!("{} {path}", request.method()));
    }
    if request.headers().get("authorization").is_none_or(|value| value != "Bearer the-token") {
        return status(401, "Unauthorized", "Unauthorized");
    }
    if let Some((verb, plural)) = world.forbidden.iter().find(|(what, on)| *what == verb && *on == plural) {
        let message = format!(
            "{plural} is forbidden: User \"system:serviceaccount:ns:my\" cannot {verb} resource \"{plural}\" in API group \"\" in the namespace \"ns\""
        );
        return status(403, "Forbidden", &message);
    }
    if let Some(kinds) = world.kinds(&path) {
        let resources: Vec<Value> = kinds
            .iter()
            .map(|kind| json!({"name": kind, "singularName": "", "namespaced": true, "kind": "Kind", "verbs": ["list", "watch"]}))
            .collect();
        let group = path.trim_start_matches("/apis/");
        let list =
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources});
        return Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(list.to_string()))
            .unwrap();
    }
    if !world.served.contains(&path) {
        let text = "404 page not found\n";
        return Response::builder().status(404).header("content-type", "text/plain").body(Body::from(text)).unwrap();
    }
    let labels = query.get("labelSelector").cloned().unwrap_or_default();
    let name = query.get("fieldSelector").map(|text| text.strip_prefix("metadata.name=").unwrap().to_owned());
    let (out, lines) = mpsc::unbounded_channel();
    let watcher = Watcher { path: path.clone(), labels, name, out };
    if !is_watch {
        let items: Vec<&Value> = world
            .objects
            .iter()
            .filter(|((of, _), object)| *of == path && watcher.selects(object))
            .map(|(_, object)| object)
            .collect();
        let body = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": world.version.to_string()}, "items": items});
        return Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
    }
    let Some(from) =
        query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok()).filter(|from| *from > 0)
    else {
        world.complaints.push(format!("a watch of {path} from nowhere"));
        return status(400, "BadRequest", "no version");
    };
    if query.get("allowWatchBookmarks").is_none_or(|value| value != "true") || !query.contains_key("timeoutSeconds") {
        world.complaints.push(format!("a watch of {path} without bookmarks or an end"));
    }
    if from < world.oldest {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410});
        let line = format!("{}\n", json!({"type": "ERROR", "object": gone}));
        return Response::builder().header("content-type", "application/json").body(Body::from(line)).unwrap();
    }
    for (version, of, before, after) in &world.log {
        if *version > from
            && *of == path
            && let Some(event) = event(&watcher, before.as_ref(), after.as_ref(), *version)
        {
            let _ = watcher.out.send(event);
        }
    }
    world.watchers.push(watcher);
    let lines = unfold(lines, |mut lines| async move { Some((Ok::<_, Infallible>(lines.recv().await?), lines)) });
    Response::builder()
        .status(StatusCode::OK)
        .header("content-type", "application/json")
        .body(Body::from_stream(lines))
        .unwrap()
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        out.push(char::from(u8::from_str_radix(code, 16).unwrap()));
        out.push_str(rest);
    }
    out
}
