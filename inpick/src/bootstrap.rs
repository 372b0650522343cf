//! An Envoy bootstrap: are inpick's pieces there, and do they fit together? Pure. `envoy --mode validate` says whether Envoy takes the
//! rest of it.

use catalogue::{envoy_labels, tag_regex};
use endpoint_picker::Plugin;
use endpoint_picker::config::ServiceConfig;
use endpoint_picker::rules::{Destination, ServedEndpoint};
use endpoint_picker_config::{Reading, parse_for_wasm};
use serde_json::Value;

use crate::finding::{Finding, Severity};
use crate::plugin::read_plugin;

/// The header with the ranked list.
const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The header in which the cluster says who served.
const SERVED: &str = "x-inpick-served-endpoint";
/// Without it Envoy puts a prefix in front of a native module's stats.
const STRIP_PREFIX: &str = "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix";

/// The `stats_tags` of a bootstrap with the wasm filter.
pub(crate) fn stats_tags() -> String {
    let tags = envoy_labels().into_iter();
    let tags = tags.map(|label| format!("  - {{tag_name: {}, regex: '{}'}}\n", label.as_str(), tag_regex(label)));
    format!("stats_config:\n  stats_tags:\n{}", tags.collect::<String>())
}

/// A part of the document and where it is.
#[derive(Clone, Debug)]
struct Place<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Place<'a> {
    /// A part of this one, by a path with dots; `Value::Null` where there is none.
    fn get(&self, path: &str) -> Self {
        let value = path.split('.').try_fold(self.value, |value, member| value.get(member)).unwrap_or(&Value::Null);
        Self { value, path: self.below(path) }
    }

    fn below(&self, path: &str) -> String {
        if self.path.is_empty() { path.to_owned() } else { format!("{}.{path}", self.path) }
    }

    fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        let (items, path) = (self.value.as_array().into_iter().flatten().enumerate(), self.path.clone());
        items.map(move |(index, value)| Self { value, path: format!("{path}[{index}]") })
    }

    fn text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    fn name(&self) -> &'a str {
        self.value.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the part is of that type, as its `@type` says.
    fn is(&self, kind: &str) -> bool {
        let name = self.value.get("@type").and_then(Value::as_str);
        name.is_some_and(|name| name.rsplit(['.', '/']).next() == Some(kind))
    }

    /// This part and all in it that are of that type.
    fn all(&self, kind: &str) -> Vec<Self> {
        let mut found = Vec::new();
        let mut rest = vec![self.clone()];
        while let Some(place) = rest.pop() {
            match place.value {
                Value::Object(members) => {
                    let inner = members.iter().map(|(name, value)| Self { value, path: place.below(name) });
                    rest.extend(inner.rev());
                }
                Value::Array(_) => rest.extend(place.items().collect::<Vec<_>>().into_iter().rev()),
                _ => {}
            }
            if place.is(kind) {
                found.push(place);
            }
        }
        found
    }
}

/// How the filter is bound to Envoy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Binding {
    Wasm,
    Native,
}

/// A filter of inpick in a connection manager.
#[derive(Debug)]
struct Filter<'a> {
    binding: Binding,
    manager: Place<'a>,
    place: Place<'a>,
    /// Its document, as far as it can be read.
    plugin: Option<Plugin>,
}

/// How filter and cluster talk to each other.
#[derive(Clone, Copy, Debug)]
struct Way {
    destination: Destination,
    reads_served_header: bool,
}

impl Way {
    fn of(filter: &Filter<'_>) -> Self {
        let rules = match &filter.plugin {
            Some(Plugin::Filter(config)) => Some(&config.rules),
            _ => None,
        };
        let by_binding = match filter.binding {
            Binding::Wasm => Destination::Header,
            Binding::Native => Destination::Metadata,
        };
        Self {
            destination: rules.and_then(|rules| rules.destination).unwrap_or(by_binding),
            reads_served_header: rules.is_some_and(|rules| rules.served_endpoint == ServedEndpoint::Header),
        }
    }
}

/// What is wrong with a bootstrap's pieces of inpick.
pub(crate) fn check(document: &Value) -> Vec<Finding> {
    let top = Place { value: document, path: String::new() };
    let mut findings = Vec::new();
    let filters = filters(&top, &mut findings);
    if filters.is_empty() {
        let reason = "no connection manager has a filter of inpick: neither a Wasm filter with root_id inpick nor a dynamic module";
        findings.push(Finding::error("static_resources.listeners", reason));
    }
    for filter in &filters {
        check_order(filter, &mut findings);
        match filter.binding {
            Binding::Wasm => check_wasm(filter, &mut findings),
            Binding::Native => {}
        }
        check_routes(&top, filter, &mut findings);
        check_sidecar(&top, filter, &mut findings);
    }
    if let Some(filter) = filters.iter().find(|filter| filter.binding == Binding::Wasm) {
        check_stats_tags(&top, &mut findings);
        check_wasm_service(&top, filter, &mut findings);
    }
    if filters.iter().any(|filter| filter.binding == Binding::Native) {
        check_native_extension(&top, &mut findings);
    }
    findings
}

fn filters<'a>(top: &Place<'a>, findings: &mut Vec<Finding>) -> Vec<Filter<'a>> {
    let mut found = Vec::new();
    for manager in top.all("HttpConnectionManager") {
        for place in manager.get("http_filters").items() {
            let config = place.get("typed_config");
            let binding = match &config {
                config if config.is("Wasm") && config.get("config.root_id").text() == Some("inpick") => Binding::Wasm,
                config if config.is("DynamicModuleFilter") && is_ours(config) => Binding::Native,
                _ => continue,
            };
            let document = match binding {
                Binding::Wasm => config.get("config.configuration.value"),
                Binding::Native => config.get("filter_config.value"),
            };
            let plugin = plugin_of(&document, binding, findings);
            found.push(Filter { binding, manager: manager.clone(), place, plugin });
        }
    }
    found
}

/// What the binding makes of a document; `None`: it refuses it.
fn plugin_of(document: &Place<'_>, binding: Binding, findings: &mut Vec<Finding>) -> Option<Plugin> {
    let text = text_of(document);
    let reading = match binding {
        Binding::Wasm => parse_for_wasm(&text).map_err(|error| error.0),
        Binding::Native => read_plugin(&text),
    };
    let (severity, texts, plugin) = match reading {
        Ok(Reading { plugin, notes }) => (Severity::Note, notes, Some(plugin)),
        Err(errors) => (Severity::Error, errors, None),
    };
    findings.extend(texts.iter().map(|text| Finding::spelled(severity, &document.path, text)));
    plugin
}

/// Whether a dynamic module is inpick's.
fn is_ours(config: &Place<'_>) -> bool {
    let names =
        ["filter_name", "extension_name", "dynamic_module_config.name", "dynamic_module_config.module.local.filename"];
    names.into_iter().any(|name| config.get(name).text().is_some_and(|text| text.contains("inpick")))
}

/// A document in a string or, as a struct has it, in place.
fn text_of(document: &Place<'_>) -> Vec<u8> {
    match document.value {
        Value::Null => Vec::new(),
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

/// The router ends the chain: what is behind it is never called.
fn check_order(filter: &Filter<'_>, findings: &mut Vec<Finding>) {
    let chain: Vec<Place<'_>> = filter.manager.get("http_filters").items().collect();
    let router = chain.iter().position(|place| place.get("typed_config").is("Router"));
    let own = chain.iter().position(|place| place.path == filter.place.path);
    match (router, own) {
        (None, _) => findings.push(Finding::error(&filter.manager.path, "http_filters: there is no router")),
        (Some(router), Some(own)) if router < own => {
            findings
                .push(Finding::error(&filter.place.path, "it stands behind the router, which calls nobody after it"));
        }
        _ => {}
    }
}

fn check_wasm(filter: &Filter<'_>, findings: &mut Vec<Finding>) {
    let config = filter.place.get("typed_config.config");
    let waits = config.get("allow_on_headers_stop_iteration");
    if waits.value.as_bool() != Some(true) {
        findings.push(Finding::error(
            waits.path,
            "expected true: without it the filter never gets the body that it waits for",
        ));
    }
    let policy = config.get("failure_policy");
    if policy.text() != Some("FAIL_RELOAD") {
        let reason = "expected FAIL_RELOAD: otherwise a crash of one virtual machine lasts until Envoy is started anew";
        findings.push(Finding::warning(policy.path, reason));
    }
}

fn check_stats_tags(top: &Place<'_>, findings: &mut Vec<Finding>) {
    let tags = top.get("stats_config.stats_tags");
    let mut missing = Vec::new();
    for label in envoy_labels() {
        let found = tags.items().find(|tag| tag.get("tag_name").text() == Some(label.as_str()));
        match found.as_ref().map(|tag| tag.get("regex")) {
            None => missing.push(label.as_str()),
            Some(regex) if regex.text() != Some(tag_regex(label).as_str()) => {
                let reason =
                    format!("expected '{}' for {}, as `inpick stats-tags` prints it", tag_regex(label), label.as_str());
                findings.push(Finding::error(regex.path, reason));
            }
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        let reason = format!(
            "no tag for {}: these labels stay part of the names; `inpick stats-tags` prints the list",
            missing.join(", ")
        );
        findings.push(Finding::error(tags.path, reason));
    }
}

/// The singleton that fetches snapshots: it and the filter share what they know by the id and the code of their virtual machines.
fn check_wasm_service(top: &Place<'_>, filter: &Filter<'_>, findings: &mut Vec<Finding>) {
    let extensions = top.get("bootstrap_extensions");
    let services = extensions.items().map(|extension| extension.get("typed_config"));
    let mut services = services
        .filter(|config| config.is("WasmService") && config.get("config.root_id").text() == Some("inpick-snapshot"));
    let Some(service) = services.next() else {
        let reason = "no WasmService with root_id inpick-snapshot: one of the workers fetches the snapshots instead of Envoy's main thread";
        return findings.push(Finding::warning(extensions.path, reason));
    };
    for member in ["config.vm_config.vm_id", "config.vm_config.code"] {
        let (own, of_filter) = (service.get(member), filter.place.get("typed_config").get(member));
        if own.value != of_filter.value {
            let reason = format!("expected the same as at {}: the two share no data otherwise", of_filter.path);
            findings.push(Finding::error(own.path, reason));
        }
    }
    let document = service.get("config.configuration.value");
    check_service(top, &document, Binding::Wasm, "snapshot_service: missing", findings);
}

fn check_native_extension(top: &Place<'_>, findings: &mut Vec<Finding>) {
    let extensions = top.get("bootstrap_extensions");
    let mut configs = extensions.items().map(|extension| extension.get("typed_config"));
    match configs.find(|config| config.is("DynamicModuleBootstrapExtension") && is_ours(config)) {
        Some(config) => check_native_service(top, &config.get("extension_config.value"), findings),
        None => {
            let reason =
                "no DynamicModuleBootstrapExtension of inpick: nothing is counted and no load is known without it";
            findings.push(Finding::error(extensions.path, reason));
        }
    }
    let layers = top.get("layered_runtime.layers");
    let is_set =
        |layer: Place<'_>| layer.get("static_layer").value.get(STRIP_PREFIX).and_then(Value::as_bool) == Some(true);
    if !layers.items().any(is_set) {
        let reason = format!("no layer sets {STRIP_PREFIX}: stats get a prefix that no dashboard knows");
        findings.push(Finding::error(layers.path, reason));
    }
}

/// Names of clusters to which the routes below a part lead, with where they say so.
fn routed_clusters<'a>(manager: &Place<'a>) -> Vec<(Place<'a>, &'a str)> {
    let mut found: Vec<(Place<'a>, &'a str)> = Vec::new();
    for host in manager.get("route_config.virtual_hosts").items() {
        for route in host.get("routes").items() {
            let place = route.get("route.cluster");
            if let Some(name) = place.text().filter(|name| found.iter().all(|(_, known)| known != name)) {
                found.push((place, name));
            }
        }
    }
    found
}

fn clusters<'a>(top: &Place<'a>) -> Vec<Place<'a>> {
    top.get("static_resources.clusters").items().collect()
}

/// What the way of a request needs: limits for its body, retries, and clusters that take the choice.
fn check_routes(top: &Place<'_>, filter: &Filter<'_>, findings: &mut Vec<Finding>) {
    let way = Way::of(filter);
    for host in filter.manager.get("route_config.virtual_hosts").items() {
        let forwards = |route: &Place<'_>| !route.get("route").value.is_null();
        let routes: Vec<Place<'_>> = host.get("routes").items().filter(forwards).collect();
        let has = |member: &str| {
            !host.get(member).value.is_null()
                || routes
                    .iter()
                    .all(|route| !route.get(member).value.is_null() || !route.get("route").get(member).value.is_null())
        };
        if routes.is_empty() {
            continue;
        }
        if !has("request_body_buffer_limit") {
            let reason = "missing: bodies above 1 MiB that must be held are refused with 413";
            findings.push(Finding::warning(host.below("request_body_buffer_limit"), reason));
        }
        if !has("retry_policy") {
            let reason = "missing: the rest of the ranked list is of no use, and a pod that dies costs its requests";
            findings.push(Finding::warning(host.below("retry_policy"), reason));
        }
    }
    let known = clusters(top);
    for (place, name) in routed_clusters(&filter.manager) {
        match known.iter().find(|cluster| cluster.name() == name) {
            Some(cluster) => check_cluster_of_pods(cluster, way, findings),
            None if top.get("dynamic_resources.cds_config").value.is_null() => {
                findings.push(Finding::error(place.path, format!("there is no cluster {name}")));
            }
            None => {}
        }
    }
}

fn check_cluster_of_pods(cluster: &Place<'_>, way: Way, findings: &mut Vec<Finding>) {
    let policies = cluster.get("load_balancing_policy");
    let Some(policy) = policies.all("OverrideHost").into_iter().next() else {
        let reason = "no override_host policy: Envoy balances by itself and takes nothing that inpick picks";
        return findings.push(Finding::error(policies.path, reason));
    };
    let sources = policy.get("override_host_sources");
    let (member, spelled) = match way.destination {
        Destination::Header => ("header", format!("header: {DESTINATION}")),
        Destination::Metadata => ("metadata", format!("metadata: {{key: envoy.lb, path: [{{key: {DESTINATION}}}]}}")),
    };
    let names = |source: Place<'_>| match way.destination {
        Destination::Header => source.get(member).text() == Some(DESTINATION),
        Destination::Metadata => {
            let mut path = source.get("metadata.path").items();
            source.get("metadata.key").text() == Some("envoy.lb")
                && path.any(|each| each.get("key").text() == Some(DESTINATION))
        }
    };
    if !sources.items().any(names) {
        findings.push(Finding::error(
            sources.path,
            format!("no source {{{spelled}}}: that is where the filter puts the choice"),
        ));
    }
    let fallback = policy.get("fallback_policy");
    if fallback.value.is_null() {
        findings.push(Finding::error(fallback.path, "missing: a request without a choice has nowhere to go"));
    }
    let options = cluster.get("typed_extension_protocol_options");
    let mutations = options.all("HeaderMutation");
    let removes = |mutation: &Place<'_>| {
        mutation.get("mutations.request_mutations").items().any(|each| each.get("remove").text() == Some(DESTINATION))
    };
    if way.destination == Destination::Header && !mutations.iter().any(removes) {
        let reason = format!("no upstream header_mutation removes {DESTINATION}: pods see the choice");
        findings.push(Finding::error(options.path.clone(), reason));
    }
    let tells = |mutation: &Place<'_>| {
        let mut each = mutation.get("mutations.response_mutations").items();
        each.any(|each| each.get("append.header.key").text() == Some(SERVED))
    };
    if way.reads_served_header && !mutations.iter().any(tells) {
        let reason = format!(
            "no upstream header_mutation writes {SERVED}, which \"served_endpoint\": \"header\" reads: who served is not known"
        );
        findings.push(Finding::error(options.path, reason));
    }
    if cluster.get("circuit_breakers").value.is_null() {
        let reason = "missing: Envoy refuses with 503 above 1024 requests at once";
        findings.push(Finding::warning(cluster.below("circuit_breakers"), reason));
    }
    let outliers = cluster.get("outlier_detection");
    if !outliers.value.is_null() {
        let reason = "override_host does not ask it; it only keeps a pod that has returned out of Envoy's fallback";
        findings.push(Finding::warning(outliers.path, reason));
    }
}

/// The bootstrap extension's document, which may be empty: then each filter's says where its snapshots come from.
fn check_native_service(top: &Place<'_>, document: &Place<'_>, findings: &mut Vec<Finding>) {
    if text_of(document).trim_ascii().is_empty() {
        return;
    }
    let reason = "the bootstrap extension takes snapshot_service only, or nothing at all";
    check_service(top, document, Binding::Native, reason, findings);
}

/// A document that says where snapshots come from; `reason`: why a filter's is none.
fn check_service(top: &Place<'_>, document: &Place<'_>, binding: Binding, reason: &str, findings: &mut Vec<Finding>) {
    match plugin_of(document, binding, findings) {
        Some(Plugin::SnapshotService(config)) => {
            check_cluster(top, &document.path, "snapshot_service.cluster", &config, findings);
        }
        Some(Plugin::Filter(_)) => findings.push(Finding::error(&document.path, reason)),
        None => {}
    }
}

/// Where the filter's instances fetch snapshots.
fn check_sidecar(top: &Place<'_>, filter: &Filter<'_>, findings: &mut Vec<Finding>) {
    let Some(Plugin::Filter(config)) = &filter.plugin else { return };
    let document = match filter.binding {
        Binding::Wasm => filter.place.get("typed_config.config.configuration.value"),
        Binding::Native => filter.place.get("typed_config.filter_config.value"),
    };
    check_cluster(top, &document.path, "sidecar.cluster", &config.sidecar, findings);
}

fn check_cluster(top: &Place<'_>, place: &str, field: &str, config: &ServiceConfig, findings: &mut Vec<Finding>) {
    let is_known = clusters(top).iter().any(|cluster| cluster.name() == config.cluster);
    if config.embedded.is_none() && !is_known && top.get("dynamic_resources.cds_config").value.is_null() {
        let reason = format!("there is no cluster {}, so no load is known", config.cluster);
        findings.push(Finding::error(format!("{place}: {field}"), reason));
    }
}

#[cfg(test)]
mod tests;
