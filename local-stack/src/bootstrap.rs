//! An Envoy bootstrap as a tree, with the changes that a local stack makes to a shipped one.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// Where the HTTP filter's document is, in each binding: the type, and the path from there.
const FILTERS: [(&str, &[&str]); 2] = [
    ("type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", &["config", "configuration"]),
    ("type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter", &["filter_config"]),
];
/// The same of what runs on Envoy's main thread.
const SERVICES: [(&str, &[&str]); 2] = [
    ("type.googleapis.com/envoy.extensions.wasm.v3.WasmService", &["config", "configuration"]),
    (
        "type.googleapis.com/envoy.extensions.bootstrap.dynamic_modules.v3.DynamicModuleBootstrapExtension",
        &["extension_config"],
    ),
];
/// Where a module's file is named, in each binding.
const MODULES: [&str; 2] = ["/code/local/filename", "/dynamic_module_config/module/local/filename"];

/// A bootstrap, read from YAML or JSON. Anchors are resolved, so each place that used one is changed on its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    tree: Value,
}

/// A bootstrap cannot be read, or lacks what was to be changed.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Not YAML.
    #[error("the bootstrap is no YAML: {0}")]
    Yaml(String),
    /// No such cluster.
    #[error("the bootstrap has no cluster {0}")]
    NoCluster(String),
    /// No such listener.
    #[error("the bootstrap has no listener {0}")]
    NoListener(String),
    /// No plugin of that kind to configure.
    #[error("the bootstrap has no {0} to configure")]
    NoPlugin(&'static str),
    /// A plugin's configuration is not JSON.
    #[error("the configuration of a plugin in the bootstrap is no JSON: {0}")]
    PluginConfig(serde_json::Error),
    /// An endpoint is not `host:port`.
    #[error("{0} is not host:port")]
    Endpoint(String),
}

impl Bootstrap {
    /// Reads YAML.
    ///
    /// # Errors
    /// [`BootstrapError::Yaml`].
    pub fn parse(yaml: &str) -> Result<Self, BootstrapError> {
        let tree = serde_saphyr::from_str(yaml).map_err(|error| BootstrapError::Yaml(error.to_string()))?;
        Ok(Self { tree })
    }

    /// The tree, for changes of any other kind.
    pub fn tree_mut(&mut self) -> &mut Value {
        &mut self.tree
    }

    /// As JSON, which Envoy reads too.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!("{:#}", self.tree)
    }

    /// Names the module's file at every place that names one; returns how many there are.
    pub fn set_module(&mut self, file: &Path) -> usize {
        let mut places = 0;
        walk(&mut self.tree, &mut |node| {
            for place in MODULES {
                if let Some(name) = node.pointer_mut(place) {
                    *name = json!(file);
                    places += 1;
                }
            }
        });
        places
    }

    /// How many places name a module's file.
    #[must_use]
    pub fn module_places(&self) -> usize {
        self.clone().set_module(Path::new(""))
    }

    /// Sets the address of Envoy's admin page.
    pub fn set_admin(&mut self, addr: SocketAddr) {
        if let Some(root) = self.tree.as_object_mut() {
            root.insert("admin".to_owned(), json!({"address": address(&addr.ip().to_string(), addr.port())}));
        }
    }

    /// Names of the listeners.
    #[must_use]
    pub fn listeners(&self) -> Vec<String> {
        names(&self.tree, "/static_resources/listeners")
    }

    /// Names of the clusters.
    #[must_use]
    pub fn clusters(&self) -> Vec<String> {
        names(&self.tree, "/static_resources/clusters")
    }

    /// Sets a listener's address.
    ///
    /// # Errors
    /// [`BootstrapError::NoListener`].
    pub fn set_listener(&mut self, name: &str, addr: SocketAddr) -> Result<(), BootstrapError> {
        let listener = named(&mut self.tree, "/static_resources/listeners", name)
            .ok_or_else(|| BootstrapError::NoListener(name.to_owned()))?;
        listener.insert("address".to_owned(), address(&addr.ip().to_string(), addr.port()));
        Ok(())
    }

    /// Replaces a cluster's endpoints with these `host:port`. The cluster resolves names by DNS if one of them is not an IP address.
    ///
    /// # Errors
    /// [`BootstrapError::NoCluster`], [`BootstrapError::Endpoint`].
    pub fn set_endpoints(&mut self, cluster: &str, endpoints: &[String]) -> Result<(), BootstrapError> {
        let found = named(&mut self.tree, "/static_resources/clusters", cluster)
            .ok_or_else(|| BootstrapError::NoCluster(cluster.to_owned()))?;
        let mut resolved = true;
        let mut listed = Vec::new();
        for endpoint in endpoints {
            let (host, port) = host_and_port(endpoint).ok_or_else(|| BootstrapError::Endpoint(endpoint.clone()))?;
            resolved &= host.parse::<std::net::IpAddr>().is_ok();
            listed.push(json!({"endpoint": {"address": address(host, port)}}));
        }
        found.insert("type".to_owned(), json!(if resolved { "STATIC" } else { "STRICT_DNS" }));
        found.insert(
            "load_assignment".to_owned(),
            json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": listed}]}),
        );
        Ok(())
    }

    /// Adds a static cluster without endpoints where there is none of that name.
    pub fn ensure_cluster(&mut self, name: &str) {
        if self.clusters().iter().any(|known| known == name) {
            return;
        }
        if let Some(clusters) = self.tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut) {
            clusters.push(json!({"name": name, "type": "STATIC", "connect_timeout": "1s"}));
        }
    }

    /// Merges a patch (RFC 7396: objects merge, null removes) into the configuration of every inpick HTTP filter.
    ///
    /// # Errors
    /// [`BootstrapError::NoPlugin`], [`BootstrapError::PluginConfig`].
    pub fn merge_plugin_config(&mut self, patch: &Value) -> Result<(), BootstrapError> {
        self.merge_config(&FILTERS, "HTTP filter", patch)
    }

    /// The same for the singleton service.
    ///
    /// # Errors
    /// [`BootstrapError::NoPlugin`], [`BootstrapError::PluginConfig`].
    pub fn merge_service_config(&mut self, patch: &Value) -> Result<(), BootstrapError> {
        self.merge_config(&SERVICES, "service on the main thread", patch)
    }

    fn merge_config(
        &mut self,
        places: &[(&str, &[&str])],
        what: &'static str,
        patch: &Value,
    ) -> Result<(), BootstrapError> {
        let mut outcome = Err(BootstrapError::NoPlugin(what));
        walk(&mut self.tree, &mut |node| {
            let place = places.iter().find(|(type_url, _)| node.get("@type").is_some_and(|found| found == type_url));
            let Some((_, [path @ .., last])) = place else { return };
            let holder = path.iter().try_fold(node, |node, name| node.get_mut(*name));
            let Some(holder) = holder.and_then(Value::as_object_mut) else { return };
            let configuration = holder
                .entry(*last)
                .or_insert_with(|| json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "{}"}));
            let merged = merged_config(configuration, patch);
            if outcome.is_ok() || matches!(outcome, Err(BootstrapError::NoPlugin(_))) {
                outcome = merged.map_err(BootstrapError::PluginConfig);
            }
        });
        outcome
    }
}

/// `host` and `port` of `host:port`; an IPv6 address stands in brackets.
fn host_and_port(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && !host.contains('/')).then_some((host, port))
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn merged_config(configuration: &mut Value, patch: &Value) -> Result<(), serde_json::Error> {
    let Some(value) = configuration.get_mut("value") else { return Ok(()) };
    match value {
        Value::String(text) => {
            let mut config: Value = serde_json::from_str(text)?;
            merge(&mut config, patch);
            *text = config.to_string();
        }
        other => merge(other, patch),
    }
    Ok(())
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn names(tree: &Value, list: &str) -> Vec<String> {
    let entries = tree.pointer(list).and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(|entry| entry.get("name")?.as_str().map(str::to_owned)).collect()
}

fn named<'a>(tree: &'a mut Value, list: &str, name: &str) -> Option<&'a mut serde_json::Map<String, Value>> {
    let entries = tree.pointer_mut(list)?.as_array_mut()?;
    entries.iter_mut().find(|entry| entry.get("name").is_some_and(|found| found == name))?.as_object_mut()
}

fn walk(node: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(node);
    match node {
        Value::Object(fields) => fields.values_mut().for_each(|child| walk(child, visit)),
        Value::Array(items) => items.iter_mut().for_each(|child| walk(child, visit)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standalone() -> Bootstrap {
        Bootstrap::parse(include_str!("../../envoy/standalone.yaml")).unwrap()
    }

    fn native() -> Bootstrap {
        Bootstrap::parse(include_str!("../../envoy/native.yaml")).unwrap()
    }

    fn configs(bootstrap: &Bootstrap, places: &[(&str, &[&str])]) -> Vec<Value> {
        let mut found = Vec::new();
        walk(&mut bootstrap.clone().tree, &mut |node| {
            if let Some((_, path)) = places.iter().find(|(url, _)| node.get("@type").is_some_and(|found| found == url))
            {
                let text = node.pointer(&format!("/{}/value", path.join("/"))).and_then(Value::as_str).unwrap();
                found.push(serde_json::from_str(text).unwrap());
            }
        });
        found
    }

    #[test]
    fn shipped_bootstrap_has_the_names_that_a_stack_changes() {
        let bootstrap = standalone();
        assert_eq!(bootstrap.listeners(), ["gateway"]);
        assert!(bootstrap.clusters().iter().any(|name| name == "pool-default"));
        assert!(bootstrap.clusters().iter().any(|name| name == "inpick-sidecar"));
    }

    #[test]
    fn module_is_named_at_the_service_and_at_the_filter() {
        let mut bootstrap = standalone();
        assert_eq!(bootstrap.set_module(Path::new("/x/filter.wasm")), 2);
        assert_eq!(bootstrap.to_json().matches("/x/filter.wasm").count(), 2);
        assert!(!bootstrap.to_json().contains("target/wasm32-wasip1"));

        let mut bootstrap = native();
        assert_eq!(bootstrap.set_module(Path::new("/x/libinpick.so")), 2);
        assert_eq!(bootstrap.to_json().matches("/x/libinpick.so").count(), 2);
        assert!(!bootstrap.to_json().contains("target/native"));
    }

    #[test]
    fn numbers_durations_and_expressions_keep_their_types() {
        let bootstrap = standalone();
        let cluster = bootstrap.tree.pointer("/static_resources/clusters/0").unwrap();
        assert_eq!(cluster["connect_timeout"], "1s");
        assert_eq!(cluster["circuit_breakers"]["thresholds"][0]["max_connections"], 65536);
        let expression = bootstrap.tree.pointer("/stats_config/stats_tags/0/regex").unwrap();
        assert_eq!(expression, r"^wasmcustom\.(le=([^;]*);)");
        assert_eq!(bootstrap.tree["bootstrap_extensions"][0]["typed_config"]["singleton"], true);
    }

    #[test]
    fn endpoints_are_replaced_and_names_need_dns() {
        let mut bootstrap = standalone();
        bootstrap.set_endpoints("pool-default", &["127.0.0.1:1".into(), "[::1]:2".into()]).unwrap();
        let cluster = &bootstrap.tree["static_resources"]["clusters"][0];
        assert_eq!(cluster["type"], "STATIC");
        let endpoints = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
        assert_eq!(endpoints.as_array().unwrap().len(), 2);
        assert_eq!(endpoints[1]["endpoint"]["address"], json!({"socket_address": {"address": "::1", "port_value": 2}}));
        assert!(cluster["load_balancing_policy"].is_object());

        bootstrap.set_endpoints("pool-default", &["127.0.0.1:1".into(), "gpu-7:8000".into()]).unwrap();
        assert_eq!(bootstrap.tree["static_resources"]["clusters"][0]["type"], "STRICT_DNS");
    }

    #[test]
    fn endpoint_without_host_or_port_is_refused() {
        for wrong in ["", "host", "host:", ":80", "host:x", "host:0", "http://host:80", "host:70000"] {
            let error = standalone().set_endpoints("pool-default", &[wrong.into()]).unwrap_err();
            assert!(matches!(&error, BootstrapError::Endpoint(named) if named == wrong), "{error}");
        }
    }

    #[test]
    fn configuration_is_merged_into_the_right_plugin() {
        let mut bootstrap = standalone();
        bootstrap.merge_plugin_config(&json!({"metrics": {"model": true}})).unwrap();
        bootstrap.merge_plugin_config(&json!({"metrics": {"llm_d": true}})).unwrap();
        assert_eq!(
            configs(&bootstrap, &FILTERS),
            [
                json!({"pool": "default", "served_endpoint": "header", "access_log": true, "metrics": {"model": true, "llm_d": true}})
            ]
        );
        bootstrap.merge_service_config(&json!({"snapshot_service": {"interval_ms": 10}})).unwrap();
        assert_eq!(configs(&bootstrap, &SERVICES)[0]["snapshot_service"]["interval_ms"], 10);
        assert_eq!(configs(&bootstrap, &SERVICES)[0]["snapshot_service"]["cluster"], "inpick-sidecar");
        bootstrap.merge_plugin_config(&json!({"metrics": null})).unwrap();
        assert_eq!(
            configs(&bootstrap, &FILTERS),
            [json!({"pool": "default", "served_endpoint": "header", "access_log": true})]
        );
    }

    #[test]
    fn a_native_modules_configuration_is_merged_too() {
        let mut bootstrap = native();
        let before = configs(&bootstrap, &FILTERS);
        bootstrap.merge_plugin_config(&json!({"metrics": {"model": true}})).unwrap();
        assert_eq!(configs(&bootstrap, &FILTERS)[0]["metrics"], json!({"model": true}));
        assert_eq!(configs(&bootstrap, &FILTERS).len(), before.len());
        bootstrap.merge_service_config(&json!({"snapshot_service": {"interval_ms": 10}})).unwrap();
        assert_eq!(configs(&bootstrap, &SERVICES), [json!({"snapshot_service": {"interval_ms": 10}})]);
    }

    #[test]
    fn a_cluster_is_added_once() {
        let mut bootstrap = native();
        bootstrap.ensure_cluster("another");
        bootstrap.ensure_cluster("another");
        bootstrap.ensure_cluster("pool-default");
        let named = |name: &str| bootstrap.clusters().iter().filter(|known| *known == name).count();
        assert_eq!([named("another"), named("pool-default")], [1, 1]);
        bootstrap.set_endpoints("another", &["127.0.0.1:1".into()]).unwrap();
    }

    #[test]
    fn what_is_not_there_is_named() {
        let mut bootstrap = Bootstrap::parse("static_resources: {listeners: [], clusters: []}").unwrap();
        assert!(matches!(bootstrap.set_endpoints("c", &[]), Err(BootstrapError::NoCluster(name)) if name == "c"));
        let addr = "127.0.0.1:1".parse().unwrap();
        assert!(matches!(bootstrap.set_listener("l", addr), Err(BootstrapError::NoListener(name)) if name == "l"));
        assert!(matches!(bootstrap.merge_plugin_config(&json!({})), Err(BootstrapError::NoPlugin(_))));
        assert!(matches!(Bootstrap::parse("a: [b"), Err(BootstrapError::Yaml(_))));
    }

    #[test]
    fn listener_and_admin_take_their_addresses() {
        let mut bootstrap = standalone();
        bootstrap.set_listener("gateway", "127.0.0.1:7".parse().unwrap()).unwrap();
        bootstrap.set_admin("127.0.0.1:8".parse().unwrap());
        let port = |pointer| bootstrap.tree.pointer(pointer).and_then(Value::as_u64);
        assert_eq!(port("/static_resources/listeners/0/address/socket_address/port_value"), Some(7));
        assert_eq!(port("/admin/address/socket_address/port_value"), Some(8));
    }
}
