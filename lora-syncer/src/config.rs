//! The file that says which adapters shall be there. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The key that everything stands below.
const ROOT: &str = "vLLMLoRAConfig";
/// Where a model server listens that the file does not name.
const DEFAULT_HOST: &str = "localhost";
/// vLLM's own default.
const DEFAULT_PORT: u16 = 8000;

/// A LoRA adapter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Adapter {
    /// The model's name that clients ask for.
    pub id: String,
    /// A path or a repository's name, as the model server understands it.
    pub source: String,
    /// The model that it adapts; `None`: the server's.
    pub base_model: Option<String>,
}

/// What a file says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The model server's host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Adapters that shall be loaded, in the file's order, each once.
    pub wanted: Vec<Adapter>,
    /// Ids of adapters that shall not be loaded, in the file's order, each once.
    pub unwanted: Vec<String>,
    /// Ids in both lists: nothing is done about them.
    pub disputed: Vec<String>,
    /// Keys that mean nothing.
    pub unknown: Vec<String>,
}

/// Everything that is wrong with a file, one a line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads a file's text.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let tree: Value =
            serde_saphyr::from_str(text).map_err(|error| ConfigError(vec![format!("no YAML: {error}")]))?;
        let Some(root) = tree.get(ROOT) else {
            return Err(ConfigError(vec![format!("{ROOT}: missing")]));
        };
        let mut reader = Reader::default();
        let config = reader.config(root);
        match (config, reader.errors.is_empty()) {
            (Some(config), true) => Ok(config),
            _ => Err(ConfigError(reader.errors)),
        }
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
struct Reader {
    errors: Vec<String>,
    unknown: Vec<String>,
}

impl Reader {
    fn config(&mut self, root: &Value) -> Option<Config> {
        let root = self.object(root, ROOT)?;
        self.known(root, ROOT, &["name", "host", "port", "defaultBaseModel", "ensureExist", "ensureNotExist"]);
        self.text(root, ROOT, "name");
        let host = self.text(root, ROOT, "host").unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let port = match root.get("port") {
            None => Some(DEFAULT_PORT),
            Some(port) => port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        };
        if port.is_none() {
            self.errors.push(format!("{ROOT}.port: expected a number from 1 to 65535"));
        }
        let base_model = self.text(root, ROOT, "defaultBaseModel");
        if !root.contains_key("ensureExist") && !root.contains_key("ensureNotExist") {
            self.errors.push(format!("{ROOT}: has neither ensureExist nor ensureNotExist"));
        }
        let mut wanted = self.adapters(root, "ensureExist", base_model.as_deref());
        let mut unwanted: Vec<String> =
            self.adapters(root, "ensureNotExist", None).into_iter().map(|adapter| adapter.id).collect();
        let disputed: Vec<String> =
            unwanted.iter().filter(|id| wanted.iter().any(|adapter| adapter.id == **id)).cloned().collect();
        wanted.retain(|adapter| !disputed.contains(&adapter.id));
        unwanted.retain(|id| !disputed.contains(id));
        let unknown = std::mem::take(&mut self.unknown);
        Some(Config { host, port: port?, wanted, unwanted, disputed, unknown })
    }

    fn adapters(&mut self, root: &Map<String, Value>, list: &str, base_model: Option<&str>) -> Vec<Adapter> {
        let at = format!("{ROOT}.{list}");
        let Some(section) = root.get(list) else { return Vec::new() };
        let Some(section) = self.object(section, &at) else { return Vec::new() };
        self.known(section, &at, &["models"]);
        let at = format!("{at}.models");
        let Some(Value::Array(models)) = section.get("models") else {
            self.errors.push(format!("{at}: expected a list"));
            return Vec::new();
        };
        let mut adapters: Vec<Adapter> = Vec::with_capacity(models.len());
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        for (index, model) in models.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let Some(model) = self.object(model, &at) else { continue };
            self.known(model, &at, &["id", "source", "base-model"]);
            let id = self.required(model, &at, "id");
            let source = self.required(model, &at, "source");
            let base_model = self.text(model, &at, "base-model").or_else(|| base_model.map(str::to_owned));
            let (Some(id), Some(source)) = (id, source) else { continue };
            let adapter = Adapter { id, source, base_model: base_model.filter(|name| !name.is_empty()) };
            match first.get(&adapter.id).and_then(|index| adapters.get(*index)) {
                None => {
                    first.insert(adapter.id.clone(), adapters.len());
                    adapters.push(adapter);
                }
                Some(other) if *other == adapter => {}
                Some(_) => self.errors.push(format!("{at}.id: {:?} is listed above with other words", adapter.id)),
            }
        }
        adapters
    }

    fn object<'a>(&mut self, value: &'a Value, at: &str) -> Option<&'a Map<String, Value>> {
        if value.as_object().is_none() {
            self.errors.push(format!("{at}: expected keys and values"));
        }
        value.as_object()
    }

    fn known(&mut self, object: &Map<String, Value>, at: &str, keys: &[&str]) {
        let unknown = object.keys().filter(|key| !keys.contains(&key.as_str()));
        self.unknown.extend(unknown.map(|key| format!("{at}.{key}")));
    }

    fn text(&mut self, object: &Map<String, Value>, at: &str, key: &str) -> Option<String> {
        match object.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => {
                self.errors.push(format!("{at}.{key}: expected a text"));
                None
            }
        }
    }

    fn required(&mut self, object: &Map<String, Value>, at: &str, key: &str) -> Option<String> {
        let errors = self.errors.len();
        let text = self.text(object, at, key).filter(|text| !text.is_empty());
        if text.is_none() && self.errors.len() == errors {
            self.errors.push(format!("{at}.{key}: missing"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
vLLMLoRAConfig:
  name: vllm-llama3-8b-instruct
  port: 8123
  defaultBaseModel: meta-llama/Llama-3.1-8B-Instruct
  ensureExist:
    models:
    - {id: food-review, source: nvidia/llama-3.1-food-review}
    - {base-model: other/base, id: cad-fabricator, source: /adapters/cad}
    - {id: both, source: /adapters/both}
    - {id: food-review, source: nvidia/llama-3.1-food-review}
  ensureNotExist:
    models:
    - {id: old-review, source: /adapters/old}
    - {id: both, source: /adapters/both}
";

    fn adapter(id: &str, source: &str, base_model: &str) -> Adapter {
        Adapter { id: id.to_owned(), source: source.to_owned(), base_model: Some(base_model.to_owned()) }
    }

    #[test]
    fn a_file_is_read_as_the_reference_reads_it() {
        let config = Config::parse(FILE).unwrap();
        assert_eq!((config.host.as_str(), config.port), ("localhost", 8123));
        let base = "meta-llama/Llama-3.1-8B-Instruct";
        let food = adapter("food-review", "nvidia/llama-3.1-food-review", base);
        assert_eq!(config.wanted, [food, adapter("cad-fabricator", "/adapters/cad", "other/base")]);
        assert_eq!((config.unwanted, config.disputed), (vec!["old-review".to_owned()], vec!["both".to_owned()]));
        assert_eq!(config.unknown, [""; 0]);
        let least = Config::parse("vLLMLoRAConfig: {ensureExist: {models: []}, hots: x}").unwrap();
        assert_eq!((least.port, least.wanted.len(), least.unknown), (8000, 0, vec!["vLLMLoRAConfig.hots".to_owned()]));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = "
vLLMLoRAConfig:
  host: 5
  port: 70000
  ensureExist: {models: [{id: a}, {id: [], source: s}, 7, {id: b, source: one}, {id: b, source: two}]}
  ensureNotExist: {models: {id: a}}
";
        let errors = Config::parse(text).unwrap_err().0;
        assert_eq!(
            errors,
            [
                "vLLMLoRAConfig.host: expected a text",
                "vLLMLoRAConfig.port: expected a number from 1 to 65535",
                "vLLMLoRAConfig.ensureExist.models[0].source: missing",
                "vLLMLoRAConfig.ensureExist.models[1].id: expected a text",
                "vLLMLoRAConfig.ensureExist.models[2]: expected keys and values",
                "vLLMLoRAConfig.ensureExist.models[4].id: \"b\" is listed above with other words",
                "vLLMLoRAConfig.ensureNotExist.models: expected a list",
            ]
        );
        for (text, error) in [
            ("", "vLLMLoRAConfig: missing"),
            ("a: b", "vLLMLoRAConfig: missing"),
            ("vLLMLoRAConfig: 5", "vLLMLoRAConfig: expected keys and values"),
            ("vLLMLoRAConfig: {port: 0}", "vLLMLoRAConfig.port: expected a number from 1 to 65535"),
            ("vLLMLoRAConfig: {name: x}", "vLLMLoRAConfig: has neither ensureExist nor ensureNotExist"),
        ] {
            assert_eq!(Config::parse(text).unwrap_err().0.first().map(String::as_str), Some(error), "{text}");
        }
        assert!(Config::parse("a: [").unwrap_err().0[0].starts_with("no YAML: "));
    }
}
