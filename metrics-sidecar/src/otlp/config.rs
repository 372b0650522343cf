//! Where metrics are pushed to, checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::uri::{PathAndQuery, Uri};

/// Everything about pushes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OtlpConfig {
    /// The collector.
    pub(crate) target: CollectorTarget,
    /// How often; not zero.
    pub(crate) interval: Duration,
    /// How long one request may take, and the last push when the sidecar ends; not zero.
    pub(crate) timeout: Duration,
    /// Whether requests are compressed.
    pub(crate) gzip: bool,
    /// More headers of each request.
    pub(crate) headers: HeaderMap,
    /// Whose certificates are taken, of an `https:` collector.
    pub(crate) trust: CollectorTrust,
    /// Attributes of the resource, `service.name` and `service.instance.id` among them; keys are unique.
    pub(crate) resource: Vec<(String, String)>,
}

/// Where requests go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CollectorTarget {
    pub(crate) is_tls: bool,
    /// Name or address, an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: PathAndQuery,
}

/// Whose certificates are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CollectorTrust {
    /// Those that lead to one that the system trusts.
    System,
    /// Those that lead to one in a PEM file.
    File(PathBuf),
}

impl CollectorTarget {
    /// Reads `http://HOST[:PORT][/PATH]` or `https://…`. `signal_path` is appended, as to an endpoint for all signals. `None`: not such a URL.
    pub(crate) fn read(url: &str, signal_path: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host();
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?.to_string(),
            None => Some(host).filter(|host| !host.is_empty())?.to_owned(),
        };
        let port = match authority.port() {
            Some(port) => Some(port.as_u16()).filter(|port| *port > 0)?,
            // Something behind the host that is no port.
            None if authority.as_str() != authority.host() => return None,
            None if is_tls => 443,
            None => 80,
        };
        let path = if signal_path.is_empty() {
            uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
        } else {
            if uri.query().is_some() {
                return None;
            }
            format!("{}/{signal_path}", uri.path().trim_end_matches('/')).parse().ok()?
        };
        Some(Self { is_tls, host, port, path })
    }

    /// Host and port as a header has them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for CollectorTarget {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(out, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_for_all_signals_gets_the_path_of_metrics_and_one_for_metrics_stays() {
        let read = |url: &str, path: &str| CollectorTarget::read(url, path).map(|target| target.to_string());
        for (url, expected) in [
            ("http://collector:4318", "http://collector:4318/v1/metrics"),
            ("http://collector:4318/", "http://collector:4318/v1/metrics"),
            ("https://collector", "https://collector:443/v1/metrics"),
            ("http://[::1]/base/", "http://[::1]:80/base/v1/metrics"),
        ] {
            assert_eq!(read(url, "v1/metrics").as_deref(), Some(expected), "{url}");
        }
        assert_eq!(read("http://c:4318", "").as_deref(), Some("http://c:4318/"));
        assert_eq!(read("http://c:4318/own/path?tenant=a", "").as_deref(), Some("http://c:4318/own/path?tenant=a"));
        for url in [
            "collector:4318",
            "grpc://c:4317",
            "http://",
            "http://u:p@c",
            "http://c:0",
            "http://c:99999",
            "http://c:",
            "",
            "http://c/?a=b",
        ] {
            assert_eq!(read(url, "v1/metrics"), None, "{url}");
        }
    }
}
