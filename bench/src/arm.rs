//! What is compared: Envoy with a shipped bootstrap, less some of its pieces.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use local_stack::Mode;
use serde_json::{Value, json};

const GUEST_NOTHING: &str = "";
/// No scorer asks for prompts, so none is hashed.
const UNHASHED: &str = r#"{"scheduling":{"scorers":[{"name":"queue-scorer"}]}}"#;
/// The client writes the model last, and where it cannot matter a long request need not be held until it comes.
const EARLY: &str = r#"{"missing_model":"pass","unknown_model":"pass"}"#;
/// What comes after the pick is not even read.
const UNREAD: &str = r#"{"early_pick_rest":"pass"}"#;
/// Nobody reads what the filter would tell the access log.
const UNLOGGED: &str = r#"{"access_log":false}"#;
const HTTP_MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const POOL: &str = "/static_resources/clusters/0";
const HTTP_OPTIONS: &str = "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A piece of the bootstrap that can be left out, or of the configuration that can be added.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Piece {
    /// The regular expressions that cut labels out of stat names; natively, the switch that keeps the names.
    Tags,
    /// The part on the main thread that fetches snapshots.
    Service,
    /// The filter.
    Filter,
    /// The load balancing policy that obeys the filter; without it the pool is round robin.
    Override,
    /// The header mutation behind the load balancer: the destination is removed, and who served is written. Only for wasm.
    Strip,
    /// Retries.
    Retry,
    /// Envoy's own responses in the form of OpenAI's.
    LocalReply,
    /// Long requests go on before their end. Not shipped so: see [`EARLY`].
    Early,
    /// With [`Self::Early`]: their rest is not read.
    Unread,
    /// The access log, and what the filter tells it.
    Log,
}

impl Piece {
    const ALL: [(Self, &str); 10] = [
        (Self::Tags, "tags"),
        (Self::Service, "service"),
        (Self::Filter, "filter"),
        (Self::Override, "override"),
        (Self::Strip, "strip"),
        (Self::Retry, "retry"),
        (Self::LocalReply, "local-reply"),
        (Self::Early, "early"),
        (Self::Unread, "unread"),
        (Self::Log, "log"),
    ];
    /// Those that an Envoy without inpick has too.
    const OF_PLAIN: [Self; 2] = [Self::Retry, Self::LocalReply];
    /// Those that an arm has only if they are named: no shipped bootstrap has the first two, and what a log costs depends on its format.
    const ADDED: [Self; 3] = [Self::Early, Self::Unread, Self::Log];

    fn shipped() -> BTreeSet<Self> {
        Self::ALL.iter().map(|(piece, _)| *piece).filter(|piece| !Self::ADDED.contains(piece)).collect()
    }

    fn remove_from(self, tree: &mut Value) {
        match self {
            Self::Tags => {
                drop_key(tree, "", "stats_config");
                drop_key(tree, "", "layered_runtime");
            }
            Self::Service => drop_key(tree, "", "bootstrap_extensions"),
            Self::LocalReply => drop_key(tree, HTTP_MANAGER, "local_reply_config"),
            Self::Filter => {
                if let Some(filters) = filters(tree) {
                    filters.retain(|filter| !is_ours(filter));
                }
                // Without the filter, nothing is to be said of its answers, and no route turns it off.
                let mappers = tree.pointer_mut(&format!("{HTTP_MANAGER}/local_reply_config/mappers"));
                if let Some(mappers) = mappers.and_then(Value::as_array_mut) {
                    mappers.retain(|mapper| !mapper.to_string().contains("inpick_"));
                }
                let routes = tree.pointer_mut(&format!("{HTTP_MANAGER}/route_config/virtual_hosts/0/routes"));
                for route in routes.and_then(Value::as_array_mut).into_iter().flatten() {
                    drop_key(route, "", "typed_per_filter_config");
                }
            }
            Self::Override => {
                drop_key(tree, POOL, "load_balancing_policy");
                if let Some(cluster) = tree.pointer_mut(POOL).and_then(Value::as_object_mut) {
                    cluster.insert("lb_policy".to_owned(), json!("ROUND_ROBIN"));
                }
            }
            Self::Strip => drop_key(tree, &format!("{POOL}{HTTP_OPTIONS}"), "http_filters"),
            Self::Retry => drop_key(tree, &format!("{HTTP_MANAGER}/route_config/virtual_hosts/0"), "retry_policy"),
            Self::Log => drop_key(tree, HTTP_MANAGER, "access_log"),
            Self::Early | Self::Unread => {}
        }
    }
}

/// What is loaded as the filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Module {
    /// The wasm module.
    Wasm,
    /// The native module.
    Native,
    /// The bench's guest, doing nothing.
    Nothing,
    /// The bench's guest, making the unavoidable host calls.
    Floor,
    /// Another build of the wasm module.
    OtherWasm(PathBuf),
    /// Another build of the native module.
    OtherNative(PathBuf),
}

impl Module {
    const fn is_native(&self) -> bool {
        matches!(self, Self::Native | Self::OtherNative(_))
    }
}

/// What polls the pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Poller {
    /// Nothing.
    Nobody,
    /// The sidecar, a process of its own.
    Sidecar,
    /// A thread of Envoy.
    Thread,
}

/// Files and addresses that an arm is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// The bench's guest.
    pub(crate) guest: String,
    /// The pods, each with its port.
    pub(crate) pods: Vec<String>,
}

/// One kind of Envoy instance.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Arm {
    /// As it was written: `plain`, `nothing`, `floor`, `unhashed`, `wasm`, `native` or `embedded`, then `+piece` and `-piece`, then
    /// `@FILE` for another module.
    pub(crate) name: String,
    pieces: BTreeSet<Piece>,
    module: Module,
    hashes_prompts: bool,
    is_embedded: bool,
}

impl FromStr for Arm {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let (path, changes) = match name.split_once('@') {
            // A path may have dashes, so changes come before it.
            Some((rest, path)) => (Some(PathBuf::from(path)), rest),
            None => (None, name),
        };
        let end = changes.find(['+', '-']).unwrap_or(changes.len());
        let (base, mut changes) = changes.split_at(end);
        let mut pieces = Piece::shipped();
        let mut module = Module::Wasm;
        let mut hashes_prompts = true;
        match base {
            "wasm" => {}
            "unhashed" => hashes_prompts = false,
            "native" | "embedded" => {
                module = Module::Native;
                pieces.remove(&Piece::Strip);
            }
            "floor" => {
                module = Module::Floor;
                pieces.retain(|piece| !matches!(piece, Piece::Service | Piece::Tags));
            }
            "plain" => pieces = Piece::OF_PLAIN.into(),
            "nothing" => {
                module = Module::Nothing;
                pieces = Piece::OF_PLAIN.into();
                pieces.insert(Piece::Filter);
            }
            _ => bail!("{base} is none of plain, nothing, floor, unhashed, wasm, native, embedded"),
        }
        if let Some(path) = path {
            module = if module.is_native() { Module::OtherNative(path) } else { Module::OtherWasm(path) };
        }
        while let Some(sign) = changes.chars().next() {
            let rest = changes.get(1..).unwrap_or_default();
            let named = Piece::ALL.iter().filter(|(_, name)| rest.starts_with(name)).max_by_key(|(_, name)| name.len());
            let Some((piece, name)) = named else { bail!("no piece of the bootstrap is called {rest}") };
            if sign == '+' {
                pieces.insert(*piece);
            } else {
                pieces.remove(piece);
            }
            changes = rest.get(name.len()..).unwrap_or_default();
        }
        Ok(Self { name: name.to_owned(), pieces, module, hashes_prompts, is_embedded: base == "embedded" })
    }
}

impl Arm {
    /// What polls the pods for it.
    pub(crate) fn poller(&self) -> Poller {
        if !self.pieces.contains(&Piece::Service) {
            Poller::Nobody
        } else if self.is_embedded {
            Poller::Thread
        } else {
            Poller::Sidecar
        }
    }

    /// Whether the bench's guest is needed.
    pub(crate) fn has_guest(&self) -> bool {
        self.pieces.contains(&Piece::Filter) && matches!(self.module, Module::Nothing | Module::Floor)
    }

    /// Which module serves it, and where its sidecar is.
    pub(crate) const fn mode(&self) -> Mode {
        match (self.module.is_native(), self.is_embedded) {
            (false, _) => Mode::Wasm,
            (true, false) => Mode::NativeSidecar,
            (true, true) => Mode::Native,
        }
    }

    /// Makes its bootstrap, as shipped, this arm's.
    pub(crate) fn patch(&self, tree: &mut Value, parts: &Parts) {
        let file = match &self.module {
            Module::Wasm | Module::Native => None,
            Module::Nothing | Module::Floor => Some(parts.guest.clone()),
            Module::OtherWasm(path) | Module::OtherNative(path) => Some(path.display().to_string()),
        };
        if let Some(file) = file {
            set_module(tree, &file);
        }
        if let Some(configuration) =
            filters(tree).and_then(|filters| filters.iter_mut().find(|filter| is_ours(filter))).and_then(configuration)
        {
            match &self.module {
                Module::Nothing => *configuration = json!(GUEST_NOTHING),
                Module::Floor => *configuration = json!(parts.pods.join(",")),
                Module::Wasm | Module::Native | Module::OtherWasm(_) | Module::OtherNative(_) => {
                    self.configure(configuration);
                }
            }
        }
        for (piece, _) in Piece::ALL {
            if !self.pieces.contains(&piece) {
                piece.remove_from(tree);
            }
        }
        if self.poller() != Poller::Sidecar
            && let Some(clusters) = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut)
        {
            clusters.truncate(1);
        }
    }

    /// Adds to the plugin's document what this arm has of its own.
    fn configure(&self, configuration: &mut Value) {
        let mut added = Vec::new();
        if !self.hashes_prompts {
            added.push(UNHASHED);
        }
        if !self.pieces.contains(&Piece::Log) {
            added.push(UNLOGGED);
        }
        if self.pieces.contains(&Piece::Early) {
            added.push(EARLY);
        }
        if self.pieces.contains(&Piece::Unread) {
            added.push(UNREAD);
        }
        let shipped = configuration.as_str().and_then(|text| serde_json::from_str(text).ok());
        if added.is_empty() {
            return;
        }
        let mut document: serde_json::Map<String, Value> = shipped.unwrap_or_default();
        for part in added {
            document.extend(serde_json::from_str::<serde_json::Map<_, _>>(part).unwrap_or_default());
        }
        *configuration = json!(Value::Object(document).to_string());
    }
}

/// Where a filter's bootstrap holds the plugin's document.
fn configuration(filter: &mut Value) -> Option<&mut Value> {
    let config = filter.get_mut("typed_config")?;
    let place =
        if config.get("filter_config").is_some() { "/filter_config/value" } else { "/config/configuration/value" };
    config.pointer_mut(place)
}

fn set_module(node: &mut Value, file: &str) {
    for place in ["/code/local/filename", "/module/local/filename"] {
        if let Some(name) = node.pointer_mut(place) {
            *name = json!(file);
        }
    }
    match node {
        Value::Object(fields) => fields.values_mut().for_each(|child| set_module(child, file)),
        Value::Array(items) => items.iter_mut().for_each(|child| set_module(child, file)),
        _ => {}
    }
}

fn filters(tree: &mut Value) -> Option<&mut Vec<Value>> {
    tree.pointer_mut(&format!("{HTTP_MANAGER}/http_filters"))?.as_array_mut()
}

fn is_ours(filter: &Value) -> bool {
    let kind = filter.pointer("/typed_config/@type").and_then(Value::as_str).unwrap_or_default();
    kind.ends_with(".wasm.v3.Wasm") || kind.ends_with(".dynamic_modules.v3.DynamicModuleFilter")
}

fn drop_key(tree: &mut Value, at: &str, key: &str) {
    if let Some(object) = tree.pointer_mut(at).and_then(Value::as_object_mut) {
        object.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use local_stack::{Bootstrap, repository};

    fn shipped(arm: &Arm) -> Value {
        let text = std::fs::read_to_string(repository().join(arm.mode().bootstrap())).unwrap();
        Bootstrap::parse(&text).unwrap().tree_mut().clone()
    }

    fn tree(name: &str) -> Value {
        let arm: Arm = name.parse().unwrap();
        let mut tree = shipped(&arm);
        arm.patch(&mut tree, &Parts { guest: "/guest.wasm".into(), pods: vec!["1.2.3.4:5".into()] });
        tree
    }

    #[test]
    fn modules_come_with_their_shipped_bootstraps() {
        assert_eq!(tree("wasm+log"), shipped(&"wasm".parse().unwrap()));
        for arm in ["native", "embedded"] {
            let native = tree(arm).to_string();
            assert!(native.contains("libinpick.so") && !native.contains("filter.wasm"), "{native}");
        }
        assert!(tree("native@/other.so").to_string().contains("/other.so"));
    }

    #[test]
    fn something_polls_the_pods_where_snapshots_are_fetched() {
        for (arm, poller) in [
            ("plain", Poller::Nobody),
            ("floor", Poller::Nobody),
            ("wasm", Poller::Sidecar),
            ("native", Poller::Sidecar),
            ("embedded", Poller::Thread),
            ("wasm-service", Poller::Nobody),
        ] {
            assert_eq!(arm.parse::<Arm>().unwrap().poller(), poller, "{arm}");
        }
    }

    #[test]
    fn every_piece_that_is_left_out_was_there() {
        for (piece, name) in Piece::ALL {
            if Piece::ADDED.contains(&piece) {
                assert_ne!(tree(&format!("wasm+{name}")), tree("wasm"), "{piece:?}");
            } else {
                assert_ne!(tree(&format!("wasm-{name}")), tree("wasm"), "{piece:?}");
            }
            if !Piece::ADDED.contains(&piece) && piece != Piece::Strip {
                assert_ne!(tree(&format!("native-{name}")), tree("native"), "{piece:?}");
            }
        }
    }

    #[test]
    fn plain_knows_nothing_of_inpick() {
        let plain = tree("plain").to_string();
        for word in ["inpick", "wasm", "x-gateway-destination-endpoint", "override_host"] {
            assert!(!plain.contains(word), "{word} in {plain}");
        }
        assert!(plain.contains("ROUND_ROBIN"));
        // The native bootstrap without its pieces is the same Envoy.
        assert_eq!(tree("native-filter-service-tags-override"), tree("plain"));
    }

    #[test]
    fn filters_get_their_configuration() {
        assert!(tree("nothing").to_string().contains("/guest.wasm"));
        assert!(!tree("nothing").to_string().contains("1.2.3.4:5"));
        assert!(tree("floor").to_string().contains("1.2.3.4:5"));
        assert!(tree("floor").to_string().contains("override_host"));
        assert!(tree("unhashed").to_string().contains("queue-scorer"));
        assert!(!tree("wasm").to_string().contains("queue-scorer"));
        for arm in ["wasm+early+unread", "native+early+unread"] {
            let text = tree(arm).to_string();
            assert!(text.contains("early_pick_rest") && text.contains("missing_model"), "{text}");
        }
    }

    #[test]
    fn pieces_are_added_and_removed_by_name() {
        assert_eq!(tree("plain+filter+override+strip+service+tags"), tree("wasm"));
        assert!(!tree("wasm-local-reply-strip").to_string().contains("local_reply_config"));
        assert!(tree("wasm-strip@/other.wasm").to_string().contains("/other.wasm"));
        assert!("wasm-nonsense".parse::<Arm>().is_err());
        assert!("theirs".parse::<Arm>().is_err());
    }
}
