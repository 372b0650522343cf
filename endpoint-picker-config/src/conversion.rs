//! From the EPP's document to inpick's.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use endpoint_picker::ConfigError;
use endpoint_picker::config::Fields;
use endpoint_picker::scheduling::{Picker, Scorer};
use serde_json::{Map, Value, json};

use crate::flow_control::{self, Surroundings};
use crate::parameters::{Parameters, check_picker, check_scorer, read_saturation};
use crate::plugin_types::{ONE_PROFILE, QUEUE, ROLES, Treatment, treatment};

/// The versions under which the document was published, by the projects that it belonged to.
const API_VERSIONS: [&str; 2] = ["llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"];
const KIND: &str = "EndpointPickerConfig";
/// Feature gates of any version that change nothing here.
const IDLE_GATES: [&str; 4] =
    ["dataLayer", "prepareDataPlugins", "enableLegacyMetrics", "haPopulateNonLeaderDatastore"];
const FLOW_CONTROL: &str = "flowControl";
/// Settings of flow control, which without its gate has no effect there either.
const FLOW_CONTROL_SETTINGS: [&str; 9] = [
    "maxBytes",
    "maxRequests",
    "defaultRequestTTL",
    "noEndpointRequestTTL",
    "defaultPriorityBand",
    "defaultNegativePriorityBand",
    "priorityBands",
    "usageLimitPolicyPluginRef",
    "enableEviction",
];
const DETECTOR: &str = "utilization-detector";

/// inpick's document, made of the EPP's.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// The document.
    pub document: Map<String, Value>,
    /// What has no effect here, or another one, each by its place in the EPP's document.
    pub notes: Vec<String>,
}

/// Whether a document says that it is the EPP's, or another one of Kubernetes.
#[must_use]
pub fn is_endpoint_picker_config(document: &Value) -> bool {
    document.get("kind").is_some() || document.get("apiVersion").is_some()
}

/// Turns the EPP's document into inpick's.
///
/// # Errors
///
/// [`ConfigError`] with every mistake and everything that inpick cannot do, each by its place in the EPP's document.
pub fn convert(document: Value) -> Result<Conversion, ConfigError> {
    let mut reader = Reader::default();
    let document = reader.read(document);
    let Reader { errors, notes, .. } = reader;
    if errors.is_empty() { Ok(Conversion { document, notes }) } else { Err(ConfigError(errors)) }
}

/// A plugin of the document.
#[derive(Debug)]
struct Declared {
    plugin_type: String,
    /// Where it stands.
    path: String,
    treatment: Option<Treatment>,
    parameters: Parameters,
    /// Thresholds, where it is a detector.
    saturation: Map<String, Value>,
}

#[derive(Debug, Default)]
struct Reader {
    /// By name.
    plugins: BTreeMap<String, Declared>,
    /// Their names in the order of the document.
    order: Vec<String>,
    /// Names that profiles refer to.
    in_profiles: BTreeSet<String>,
    /// The gate of flow control is open.
    queues: bool,
    errors: Vec<String>,
    notes: Vec<String>,
}

impl Reader {
    fn read(&mut self, document: Value) -> Map<String, Value> {
        let mut root = Fields::of(document, "", &mut self.errors);
        self.constant(&mut root, "apiVersion", &API_VERSIONS);
        self.constant(&mut root, "kind", &[KIND]);
        self.feature_gates(&mut root);
        for (path, plugin) in root.list("plugins", &mut self.errors).unwrap_or_default() {
            self.declare(&path, plugin);
        }
        let mut made = Map::new();
        if let Some(scheduling) = self.profiles(&mut root) {
            made.insert("scheduling".into(), scheduling);
        }
        let flow = root.object(FLOW_CONTROL, &mut self.errors);
        let (saturation, flow) = self.saturation(&mut root, flow);
        if self.queues {
            made.insert("flow_control".into(), self.flow_control(flow, &saturation).into());
        } else if let Some(flow) = flow {
            self.closed_flow_control(flow);
        }
        if !saturation.is_empty() {
            made.insert("saturation".into(), saturation.into());
        }
        let is_testing =
            |name| self.plugins.get(name).is_some_and(|plugin| plugin.treatment == Some(Treatment::TestingFilter));
        if self.in_profiles.iter().any(is_testing) {
            made.insert("conformance".into(), true.into());
        }
        let session_header =
            self.in_profiles.iter().find_map(|name| self.plugins.get(name)?.parameters.session_header.as_ref());
        if let Some(header) = session_header {
            made.insert("session".into(), json!({"header": header}));
        }
        for name in ["dataLayer", "data"] {
            if let Some(layer) = root.object(name, &mut self.errors) {
                self.data_layer(layer);
            }
        }
        self.parsers(&mut root);
        for (path, supplier) in self.plugins.values().flat_map(|plugin| &plugin.parameters.suppliers) {
            if !self.plugins.contains_key(supplier) && treatment(supplier).is_none() {
                self.errors.push(format!("{path}: no plugin is called {supplier}"));
            }
        }
        root.finish(&mut self.errors);
        made
    }

    fn constant(&mut self, root: &mut Fields, name: &str, values: &[&str]) {
        let choices: Vec<_> = values.iter().map(|&value| (value, ())).collect();
        root.required_choice(name, &choices, &mut self.errors);
    }

    fn declare(&mut self, path: &str, plugin: Value) {
        let (errors, notes) = (&mut self.errors, &mut self.notes);
        let mut fields = Fields::of(plugin, path, errors);
        let plugin_type = fields.required_text("type", errors);
        let name = fields.text("name", errors).unwrap_or_else(|| plugin_type.clone());
        let treatment = treatment(&plugin_type);
        let mut parameters = match treatment {
            Some(
                Treatment::Idle(_)
                | Treatment::QueuePolicy
                | Treatment::Unsupported(_)
                | Treatment::UnsupportedInProfile(_),
            )
            | None => {
                fields.values.remove("parameters");
                Fields::default()
            }
            _ => fields.object("parameters", errors).unwrap_or_default(),
        };
        fields.finish(errors);
        if plugin_type.is_empty() {
            return;
        }
        let mut saturation = Map::new();
        let mut read = Parameters::default();
        match treatment {
            None => errors.push(format!("{path}.type: {plugin_type} is unknown")),
            Some(Treatment::Unsupported(reason)) => {
                errors.push(format!("{path}.type: {plugin_type} is not supported: {reason}"));
            }
            Some(Treatment::QueuePolicy) if self.queues => {}
            Some(Treatment::QueuePolicy) => notes.push(format!("{path}.type: {plugin_type} has no effect: {QUEUE}")),
            Some(Treatment::Idle(reason)) => notes.push(format!("{path}.type: {plugin_type} has no effect: {reason}")),
            // Whether it does anything is known when the profiles are.
            Some(Treatment::UnsupportedInProfile(_)) => {}
            Some(Treatment::StageHandler) => {
                for name in core::mem::take(&mut parameters.values).keys() {
                    errors.push(format!("{}{name}: is not supported: {ROLES}", parameters.path));
                }
                notes.push(format!("{path}.type: {plugin_type} has no effect: {ONE_PROFILE}"));
            }
            Some(Treatment::TestingFilter) => parameters.finish(errors),
            Some(Treatment::UtilizationDetector) => {
                saturation = read_saturation(&mut parameters, errors, notes);
                parameters.finish(errors);
            }
            Some(Treatment::PrefixProducer) => {
                read = Parameters::of(&plugin_type, parameters, errors, notes);
                check_scorer(PREFIX_SCORER, &read.values, path, errors);
            }
            Some(Treatment::Scorer) => {
                read = Parameters::of(&plugin_type, parameters, errors, notes);
                check_scorer(&plugin_type, &read.values, path, errors);
            }
            Some(Treatment::Picker) => {
                read.values = parameters.values;
                check_picker(&plugin_type, &read.values, path, errors);
            }
        }
        let declared = Declared { plugin_type, path: path.to_owned(), treatment, parameters: read, saturation };
        match self.plugins.entry(name) {
            Entry::Occupied(first) => {
                self.errors.push(format!("{path}.name: another plugin is called {}", first.key()));
            }
            Entry::Vacant(place) => {
                self.order.push(place.key().clone());
                place.insert(declared);
            }
        }
    }

    /// The section `scheduling` of what is made. Without any profile each plugin belongs to it, as in the EPP.
    fn profiles(&mut self, root: &mut Fields) -> Option<Value> {
        let profiles = root.list("schedulingProfiles", &mut self.errors).unwrap_or_default();
        let mut members = Vec::new();
        if profiles.is_empty() {
            members.extend(self.order.iter().map(|name| (name.clone(), None)));
        }
        let count = profiles.len();
        for (path, profile) in profiles {
            let mut fields = Fields::of(profile, &path, &mut self.errors);
            fields.required_text("name", &mut self.errors);
            for (path, member) in fields.list("plugins", &mut self.errors).unwrap_or_default() {
                members.extend(self.member(&path, member));
            }
            fields.finish(&mut self.errors);
        }
        self.in_profiles.extend(members.iter().map(|(name, _)| name.clone()));
        for name in &self.order {
            let Some(plugin) = self.plugins.get(name) else { continue };
            let Some(Treatment::UnsupportedInProfile(reason)) = plugin.treatment else { continue };
            let Declared { plugin_type, path, .. } = plugin;
            if self.in_profiles.contains(name) {
                self.errors.push(format!("{path}.type: {plugin_type} is not supported: {reason}"));
            } else {
                self.notes.push(format!("{path}.type: {plugin_type} has no effect: no profile refers to it"));
            }
        }
        if count > 1 {
            self.errors.push(format!("schedulingProfiles: {count} profiles are not supported: {ONE_PROFILE}"));
            return None;
        }
        let mut scorers = Vec::new();
        let mut pickers = Vec::new();
        for (name, weight) in &members {
            let Some(declared) = self.plugins.get(name) else { continue };
            match declared.treatment {
                Some(Treatment::Scorer) => scorers.push(self.scorer(declared, weight.unwrap_or(1.0))),
                Some(Treatment::Picker) => pickers.push(declared),
                _ => {}
            }
        }
        if let [_, second, ..] = pickers[..] {
            self.errors.push(format!("{}: a second picker in one profile", second.path));
        }
        // The EPP takes any picker that is declared for a profile that has none.
        let declared = || {
            self.order
                .iter()
                .filter_map(|name| self.plugins.get(name))
                .find(|it| it.treatment == Some(Treatment::Picker))
        };
        let mut scheduling = Map::from_iter([("scorers".to_owned(), Value::from(scorers))]);
        let picker = pickers.first().copied().or_else(declared).map_or_else(
            || json!(Picker::MaxScore.as_str()),
            |picker| match &picker.parameters.values {
                none if none.is_empty() => json!(picker.plugin_type),
                parameters => json!({"name": picker.plugin_type, "parameters": parameters}),
            },
        );
        scheduling.insert("picker".into(), picker);
        Some(scheduling.into())
    }

    /// A plugin that a profile refers to, and its weight.
    fn member(&mut self, path: &str, member: Value) -> Option<(String, Option<f64>)> {
        let mut fields = Fields::of(member, path, &mut self.errors);
        let name = fields.required_text("pluginRef", &mut self.errors);
        let weight = fields.number("weight", 0.0..=1e6, &mut self.errors);
        fields.finish(&mut self.errors);
        if name.is_empty() {
            return None;
        }
        self.refer(&format!("{path}.pluginRef"), &name);
        Some((name, weight))
    }

    fn scorer(&self, declared: &Declared, weight: f64) -> Value {
        let mut parameters = Map::new();
        if declared.plugin_type == PREFIX_SCORER {
            let named = declared.parameters.suppliers.first().and_then(|(_, supplier)| self.plugins.get(supplier));
            let producer = named
                .or_else(|| self.plugins.values().find(|plugin| plugin.treatment == Some(Treatment::PrefixProducer)));
            parameters.extend(producer.map(|producer| producer.parameters.values.clone()).unwrap_or_default());
        }
        parameters.extend(declared.parameters.values.clone());
        let mut scorer = Map::from_iter([
            ("name".to_owned(), Value::from(declared.plugin_type.clone())),
            ("weight".to_owned(), weight.into()),
        ]);
        if !parameters.is_empty() {
            scorer.insert("parameters".into(), parameters.into());
        }
        scorer.into()
    }

    /// Names a reference to a plugin that is not declared.
    fn refer(&mut self, path: &str, name: &str) {
        if !self.plugins.contains_key(name) {
            self.errors.push(format!("{path}: no plugin is called {name}"));
        }
    }

    /// The same for plugins that the EPP supplies itself where the document does not.
    fn refer_to_default(&mut self, path: &str, name: &str) {
        match treatment(name) {
            Some(Treatment::Unsupported(reason)) if !self.plugins.contains_key(name) => {
                self.errors.push(format!("{path}: {name} is not supported: {reason}"));
            }
            Some(_) => {}
            None => self.refer(path, name),
        }
    }

    fn feature_gates(&mut self, root: &mut Fields) {
        for (path, gate) in root.list("featureGates", &mut self.errors).unwrap_or_default() {
            let Some(text) = gate.as_str() else {
                self.errors.push(format!("{path}: must be a text, not {gate}"));
                continue;
            };
            let (name, value) = text.split_once('=').unwrap_or((text, "true"));
            let is_on = match value.trim().to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => true,
                "false" | "f" | "0" => false,
                _ => {
                    self.errors.push(format!("{path}: must be a gate with =true or =false, not {text:?}"));
                    continue;
                }
            };
            if name == FLOW_CONTROL {
                self.queues = is_on;
            } else if IDLE_GATES.contains(&name) {
                self.notes.push(format!("{path}: {name} has no effect: there is nothing to choose between"));
            } else {
                self.errors.push(format!("{path}: {name} is unknown"));
            }
        }
    }

    /// The thresholds of the detector in use, and what is left of the section of flow control. The newer place counts where both are given.
    fn saturation(&mut self, root: &mut Fields, mut flow: Option<Fields>) -> (Map<String, Value>, Option<Fields>) {
        let outer = root.object("saturationDetector", &mut self.errors).map(|fields| self.detector(fields));
        let inner = flow.as_mut().and_then(|flow| flow.object("saturationDetector", &mut self.errors));
        let inner = inner.map(|fields| self.detector(fields));
        // One that is declared and not referred to is in use too, by the name that the EPP looks for.
        let declared = || self.plugins.get(DETECTOR).map(|plugin| plugin.saturation.clone());
        (inner.or(outer).or_else(declared).unwrap_or_default(), flow)
    }

    /// The section `flow_control` of what is made.
    fn flow_control(&mut self, flow: Option<Fields>, saturation: &Map<String, Value>) -> Map<String, Value> {
        let plugins = &self.plugins;
        let plugin_type = |name: &str| match plugins.get(name) {
            Some(declared) => Some(declared.plugin_type.clone()),
            None => treatment(name).map(|_| name.to_owned()),
        };
        let surroundings = Surroundings { plugin_type: &plugin_type, saturation };
        flow_control::read(flow.unwrap_or_default(), &surroundings, &mut self.errors, &mut self.notes)
    }

    /// The section of flow control where its gate is closed.
    fn closed_flow_control(&mut self, mut flow: Fields) {
        for name in FLOW_CONTROL_SETTINGS {
            if flow.values.remove(name).is_some() {
                self.notes.push(format!("{}{name}: has no effect without flow control", flow.path));
            }
        }
        flow.finish(&mut self.errors);
    }

    /// A section `saturationDetector`: a reference, or in v1.3 and before the thresholds themselves.
    fn detector(&mut self, mut fields: Fields) -> Map<String, Value> {
        let path = format!("{}pluginRef", fields.path);
        let Some(name) = fields.text("pluginRef", &mut self.errors) else {
            let mut thresholds = read_saturation(&mut fields, &mut self.errors, &mut self.notes);
            fields.finish(&mut self.errors);
            if thresholds.is_empty()
                && let Some(plugin) = self.plugins.get(DETECTOR)
            {
                thresholds.clone_from(&plugin.saturation);
            }
            return thresholds;
        };
        fields.finish(&mut self.errors);
        self.refer_to_default(&path, &name);
        self.plugins.get(&name).map(|plugin| plugin.saturation.clone()).unwrap_or_default()
    }

    fn data_layer(&mut self, mut layer: Fields) {
        let place = layer.path.trim_end_matches('.').to_owned();
        self.notes.push(format!("{place}: has no effect: the metrics sidecar reads the model servers' pages"));
        layer.boolean("injectDefaults", &mut self.errors);
        for (path, source) in layer.list("sources", &mut self.errors).unwrap_or_default() {
            let mut source = Fields::of(source, &path, &mut self.errors);
            self.reference(&mut source);
            for (path, extractor) in source.list("extractors", &mut self.errors).unwrap_or_default() {
                let mut extractor = Fields::of(extractor, &path, &mut self.errors);
                self.reference(&mut extractor);
                extractor.finish(&mut self.errors);
            }
            source.finish(&mut self.errors);
        }
        for (name, reason) in [
            ("discovery", "the metrics sidecar finds the endpoints"),
            ("peerDiscovery", "Envoys do not know one another"),
            ("crossReplicaSyncerPluginRef", "Envoys do not share what they know"),
            ("crossReplicaSyncInterval", "Envoys do not share what they know"),
        ] {
            if layer.values.remove(name).is_some() {
                self.errors.push(format!("{}{name}: is not supported: {reason}", layer.path));
            }
        }
        layer.finish(&mut self.errors);
    }

    fn reference(&mut self, fields: &mut Fields) {
        let path = format!("{}pluginRef", fields.path);
        let name = fields.required_text("pluginRef", &mut self.errors);
        if !name.is_empty() {
            self.refer(&path, &name);
        }
    }

    /// `parser`, or since llm-d's v0.8 `requestHandler.parsers`.
    fn parsers(&mut self, root: &mut Fields) {
        let mut parsers: Vec<_> = root.object("parser", &mut self.errors).into_iter().collect();
        if let Some(mut handler) = root.object("requestHandler", &mut self.errors) {
            for (path, parser) in handler.list("parsers", &mut self.errors).unwrap_or_default() {
                parsers.push(Fields::of(parser, &path, &mut self.errors));
            }
            handler.finish(&mut self.errors);
        }
        for mut parser in parsers {
            let path = format!("{}pluginRef", parser.path);
            let name = parser.required_text("pluginRef", &mut self.errors);
            if !name.is_empty() {
                self.refer_to_default(&path, &name);
            }
            parser.finish(&mut self.errors);
        }
    }
}

const PREFIX_SCORER: &str = Scorer::PrefixCache(endpoint_picker::scheduling::PrefixCache::DEFAULT).as_str();
