//! A listener that Envoy reads from a file, where it can be changed while Envoy runs.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Has Envoy read its listener from a file.
#[derive(Debug)]
pub struct ListenerFile(TempDir);

impl ListenerFile {
    /// What Envoy wants to be told of itself where it reads a listener from a file.
    pub const NODE: [&str; 4] = ["--service-node", "gateway", "--service-cluster", "gateways"];

    /// One in a folder of its own.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("listener.json")
    }

    /// Moves the first listener of a bootstrap into the file.
    pub fn patch(&self) -> impl Fn(&mut Value) + Send + Sync + use<> + 'static {
        let path = self.path();
        move |bootstrap| {
            let mut listener = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap().remove(0);
            listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
            std::fs::write(&path, json!({"resources": [listener]}).to_string()).unwrap();
            bootstrap["dynamic_resources"]["lds_config"] = json!({"path_config_source": {"path": path}});
        }
    }

    /// Puts one text of the listener in the place of another, where the filter's document stands as a text of JSON.
    ///
    /// # Panics
    ///
    /// When the listener does not have it.
    pub fn change(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path()).unwrap();
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from} is not in the listener");
        let new = self.0.path().join("new.json");
        std::fs::write(&new, changed).unwrap();
        // Envoy takes note of a file that is moved there.
        std::fs::rename(new, self.path()).unwrap();
    }
}
