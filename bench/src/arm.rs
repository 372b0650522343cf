//! What is compared: Envoy with the shipped bootstrap, less some of its pieces.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use serde_json::{Value, json};

const GUEST_NOTHING: &str = "";
/// No scorer asks for prompts, so none is hashed.
const UNHASHED: &str = r#"{"pool":"default","scheduling":{"scorers":[{"name":"queue-scorer"}]}}"#;
const HTTP_MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const POOL: &str = "/static_resources/clusters/0";
const HTTP_OPTIONS: &str = "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A piece of the bootstrap that can be left out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Piece {
    /// The regular expressions that cut labels out of stat names.
    Tags,
    /// The singleton that fetches snapshots.
    Service,
    /// The wasm filter.
    Filter,
    /// The load balancing policy that obeys the filter; without it the pool is round robin.
    Override,
    /// The removal of the destination behind the load balancer.
    Strip,
    /// Retries.
    Retry,
    /// Envoy's own responses in the form of OpenAI's.
    LocalReply,
}

impl Piece {
    const ALL: [(Self, &str); 7] = [
        (Self::Tags, "tags"),
        (Self::Service, "service"),
        (Self::Filter, "filter"),
        (Self::Override, "override"),
        (Self::Strip, "strip"),
        (Self::Retry, "retry"),
        (Self::LocalReply, "local-reply"),
    ];
    /// Those that an Envoy without inpick has too.
    const OF_PLAIN: [Self; 2] = [Self::Retry, Self::LocalReply];

    fn all() -> BTreeSet<Self> {
        Self::ALL.iter().map(|(piece, _)| *piece).collect()
    }

    fn remove_from(self, tree: &mut Value) {
        match self {
            Self::Tags => drop_key(tree, "", "stats_config"),
            Self::Service => drop_key(tree, "", "bootstrap_extensions"),
            Self::LocalReply => drop_key(tree, HTTP_MANAGER, "local_reply_config"),
            Self::Filter => {
                if let Some(filters) = filters(tree) {
                    filters.retain(|filter| !is_wasm(filter));
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
        }
    }
}

/// What is loaded as the wasm filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Module {
    /// The built filter.
    Ours,
    /// The bench's guest, doing nothing.
    Nothing,
    /// The bench's guest, making the unavoidable host calls.
    Floor,
    /// Another build of the filter.
    File(PathBuf),
}

/// One kind of Envoy instance.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Arm {
    /// As it was written: `plain`, `nothing`, `floor`, `unhashed` or `ours`, then `@FILE` for another module, then `+piece` and `-piece`.
    pub(crate) name: String,
    pieces: BTreeSet<Piece>,
    module: Module,
    hashes_prompts: bool,
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
        let mut pieces = Piece::all();
        let mut module = Module::Ours;
        let mut hashes_prompts = true;
        match base {
            "ours" => {}
            "unhashed" => hashes_prompts = false,
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
            _ => bail!("{base} is none of plain, nothing, floor, unhashed, ours"),
        }
        if let Some(path) = path {
            module = Module::File(path);
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
        Ok(Self { name: name.to_owned(), pieces, module, hashes_prompts })
    }
}

impl Arm {
    /// Whether snapshots are fetched, so that a sidecar must run.
    pub(crate) fn has_service(&self) -> bool {
        self.pieces.contains(&Piece::Service)
    }

    /// Whether the bench's guest is needed.
    pub(crate) fn has_guest(&self) -> bool {
        self.pieces.contains(&Piece::Filter) && matches!(self.module, Module::Nothing | Module::Floor)
    }

    /// Makes the shipped bootstrap this arm's.
    pub(crate) fn patch(&self, tree: &mut Value, guest: &str, pods: &str) {
        let file = match &self.module {
            Module::Ours => None,
            Module::Nothing | Module::Floor => Some(guest.to_owned()),
            Module::File(path) => Some(path.display().to_string()),
        };
        if let Some(file) = file {
            set_module(tree, &file);
        }
        let configuration = match &self.module {
            Module::Nothing => Some(GUEST_NOTHING),
            Module::Floor => Some(pods),
            Module::Ours | Module::File(_) if self.hashes_prompts => None,
            Module::Ours | Module::File(_) => Some(UNHASHED),
        };
        if let Some(configuration) = configuration
            && let Some(filter) = filters(tree).and_then(|filters| filters.iter_mut().find(|filter| is_wasm(filter)))
            && let Some(value) = filter.pointer_mut("/typed_config/config/configuration/value")
        {
            *value = json!(configuration);
        }
        for (piece, _) in Piece::ALL {
            if !self.pieces.contains(&piece) {
                piece.remove_from(tree);
            }
        }
        if !self.has_service()
            && let Some(clusters) = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut)
        {
            clusters.truncate(1);
        }
    }
}

fn set_module(node: &mut Value, file: &str) {
    if let Some(name) = node.pointer_mut("/code/local/filename") {
        *name = json!(file);
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

fn is_wasm(filter: &Value) -> bool {
    filter.pointer("/typed_config/@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with(".wasm.v3.Wasm"))
}

fn drop_key(tree: &mut Value, at: &str, key: &str) {
    if let Some(object) = tree.pointer_mut(at).and_then(Value::as_object_mut) {
        object.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use local_stack::Bootstrap;

    fn tree(arm: &str) -> Value {
        let mut bootstrap = Bootstrap::parse(include_str!("../../envoy/standalone.yaml")).unwrap();
        let arm: Arm = arm.parse().unwrap();
        arm.patch(bootstrap.tree_mut(), "/guest.wasm", "1.2.3.4:5");
        bootstrap.tree_mut().clone()
    }

    #[test]
    fn ours_is_the_shipped_bootstrap() {
        let mut shipped = Bootstrap::parse(include_str!("../../envoy/standalone.yaml")).unwrap();
        assert_eq!(tree("ours"), *shipped.tree_mut());
    }

    #[test]
    fn every_piece_that_is_left_out_was_there() {
        for (piece, name) in Piece::ALL {
            assert_ne!(tree(&format!("ours-{name}")), tree("ours"), "{piece:?}");
        }
    }

    #[test]
    fn plain_knows_nothing_of_inpick() {
        let plain = tree("plain").to_string();
        for word in ["inpick", "wasm", "x-gateway-destination-endpoint", "override_host"] {
            assert!(!plain.contains(word), "{word} in {plain}");
        }
        assert!(plain.contains("ROUND_ROBIN"));
    }

    #[test]
    fn guests_get_their_configuration() {
        assert!(tree("nothing").to_string().contains("/guest.wasm"));
        assert!(!tree("nothing").to_string().contains("1.2.3.4:5"));
        assert!(tree("floor").to_string().contains("1.2.3.4:5"));
        assert!(tree("floor").to_string().contains("override_host"));
        assert!(tree("unhashed").to_string().contains("queue-scorer"));
        assert!(!tree("ours").to_string().contains("queue-scorer"));
    }

    #[test]
    fn pieces_are_added_and_removed_by_name() {
        assert_eq!(tree("plain+filter+override+strip+service+tags"), tree("ours"));
        assert!(!tree("ours-local-reply-strip").to_string().contains("local_reply_config"));
        assert!(tree("ours-strip@/other.wasm").to_string().contains("/other.wasm"));
        assert!("ours-nonsense".parse::<Arm>().is_err());
        assert!("theirs".parse::<Arm>().is_err());
    }
}
