//! Pools from the API server of Kubernetes, as flags name them.

#[cfg(feature = "kubernetes")]
use kubernetes::{Followed, IpFamily, PodSelector, PodSource};

use crate::cluster::Cluster;
use crate::config::Source;

/// How sources of Kubernetes begin.
const PREFIXES: [&str; 2] = ["inferencepool:", "pods:"];
/// Most ports of a pool, as of an `InferencePool`.
#[cfg(feature = "kubernetes")]
const MAX_PORTS: usize = 8;

impl Cluster {
    /// Whether a source is of Kubernetes.
    pub(crate) fn has(source: &str) -> bool {
        PREFIXES.iter().any(|prefix| source.starts_with(prefix))
    }

    /// Reads such a source; `None`: it is of another kind.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn source(&self, text: &str) -> Option<Result<Source, String>> {
        let connection = self.connection.clone();
        let followed = followed(text, &self.namespace)?;
        Some(followed.map(|followed| Source::Kubernetes { connection, followed }))
    }

    /// The same in a build without Kubernetes.
    ///
    /// # Errors
    ///
    /// Always, for such a source.
    #[cfg(not(feature = "kubernetes"))]
    pub(crate) fn source(&self, text: &str) -> Option<Result<Source, String>> {
        Self::has(text).then(|| Err("this program was built without Kubernetes (its feature `kubernetes`)".to_owned()))
    }
}

/// Takes a setting of such a pool; `None`: it is none of theirs.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn option(source: &mut Source, key: &str, value: &str) -> Option<Result<(), &'static str>> {
    match source {
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes { followed, .. } => followed_option(followed, key, value),
        _ => {
            let _ = (key, value);
            None
        }
    }
}

/// Reads what follows a pool's name; `None`: it is of another kind.
///
/// # Errors
///
/// What is wrong with it.
#[cfg(feature = "kubernetes")]
fn followed(source: &str, namespace: &str) -> Option<Result<Followed, String>> {
    if let Some(text) = source.strip_prefix("inferencepool:") {
        return Some(pool(text, namespace));
    }
    source.strip_prefix("pods:").map(|text| pods(text, namespace))
}

#[cfg(feature = "kubernetes")]
fn pool(text: &str, namespace: &str) -> Result<Followed, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if !is_name(namespace) || !is_name(name) {
        return Err(format!("inferencepool: {text:?} is not [NAMESPACE/]NAME"));
    }
    Ok(Followed::Pool { namespace: namespace.to_owned(), name: name.to_owned(), family: None })
}

#[cfg(feature = "kubernetes")]
fn pods(text: &str, namespace: &str) -> Result<Followed, String> {
    let (selector, ports) =
        text.rsplit_once(':').ok_or_else(|| format!("pods: {text:?} is not SELECTOR:PORT[,PORT]"))?;
    let selector: PodSelector = selector.parse().map_err(|error| format!("pods: {error}"))?;
    let mut numbers: Vec<u16> = Vec::new();
    for port in ports.split(',').map(str::trim) {
        let number = port.parse().ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("pods: {port:?} is no port from 1 to 65535"))?;
        if numbers.contains(&number) {
            return Err(format!("pods: port {number} is listed twice"));
        }
        numbers.push(number);
    }
    if numbers.len() > MAX_PORTS {
        return Err(format!("pods: {} ports, more than {MAX_PORTS}", numbers.len()));
    }
    let source = PodSource { selector, ports: numbers };
    Ok(Followed::Pods { namespace: namespace.to_owned(), source, family: None })
}

/// Takes a setting of such a pool; `None`: it is none of theirs.
///
/// # Errors
///
/// What is wrong with it.
#[cfg(feature = "kubernetes")]
fn followed_option(followed: &mut Followed, key: &str, value: &str) -> Option<Result<(), &'static str>> {
    match (key, followed) {
        ("namespace", Followed::Pods { namespace, .. }) if is_name(value) => {
            value.clone_into(namespace);
            Some(Ok(()))
        }
        ("namespace", Followed::Pods { .. }) => Some(Err("expected the name of a namespace")),
        ("namespace", Followed::Pool { .. }) => Some(Err("an inferencepool: has its namespace before its name")),
        ("address-family", Followed::Pods { family, .. } | Followed::Pool { family, .. }) => {
            *family = match value {
                "ipv4" => Some(IpFamily::Ipv4),
                "ipv6" => Some(IpFamily::Ipv6),
                _ => return Some(Err("expected ipv4 or ipv6; without it the first address of each pod counts")),
            };
            Some(Ok(()))
        }
        _ => None,
    }
}

/// A DNS subdomain, as the names of objects are.
#[cfg(feature = "kubernetes")]
fn is_name(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    text.len() <= 253 && is_end(text.as_bytes().first()) && is_end(text.as_bytes().last()) && text.bytes().all(is_inner)
}

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use super::*;

    #[test]
    fn pools_and_pods_are_read_with_their_namespace() {
        let pool = |namespace: &str, name: &str| Followed::Pool {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            family: None,
        };
        assert_eq!(followed("inferencepool:my", "here"), Some(Ok(pool("here", "my"))));
        assert_eq!(followed("inferencepool:there/my.pool-1", "here"), Some(Ok(pool("there", "my.pool-1"))));
        let source = PodSource { selector: "app=vllm,tier in (a,b)".parse().unwrap(), ports: vec![8000, 8001] };
        let pods = Followed::Pods { namespace: "here".to_owned(), source, family: None };
        assert_eq!(followed("pods:app=vllm,tier in (a, b):8000, 8001", "here"), Some(Ok(pods)));
        assert_eq!(followed("dns:a:1", "here"), None);
    }

    #[test]
    fn each_bad_source_says_what_is_wrong() {
        for (source, why) in [
            ("inferencepool:", "[NAMESPACE/]NAME"),
            ("inferencepool:a/b/c", "[NAMESPACE/]NAME"),
            ("inferencepool:/b", "[NAMESPACE/]NAME"),
            ("inferencepool:My", "[NAMESPACE/]NAME"),
            ("pods:app=vllm", "SELECTOR:PORT"),
            ("pods::8000", "empty selector"),
            ("pods:app=vllm:", "\"\" is no port"),
            ("pods:app=vllm:http", "\"http\" is no port"),
            ("pods:app=vllm:0", "\"0\" is no port"),
            ("pods:app=vllm:8000,8000", "8000 is listed twice"),
            ("pods:app=vllm:1,2,3,4,5,6,7,8,9", "9 ports"),
            ("pods:app vllm:8000", "is none of"),
        ] {
            let error = followed(source, "here").unwrap().unwrap_err();
            assert!(error.contains(why), "{source}: {error}");
        }
    }
}
