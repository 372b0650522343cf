//! Where a document or a page is read from: a file, standard input, or a URL.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use metrics_sidecar::scrape::{Buffers, Client, Peer};
use metrics_sidecar::tls::Tls;

/// How long a page may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest page in bytes: one of Envoy with every family of a hundred models.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// Something to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// Standard input.
    Input,
    /// A file.
    File(PathBuf),
    /// A page.
    Url(Url),
}

/// What names a page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Url {
    is_tls: bool,
    host: String,
    port: u16,
    /// Path and query.
    pub(crate) path: String,
}

/// How pages are read that want more than a request.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Access {
    /// File with a bearer token to send with requests
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    token_file: Option<PathBuf>,
    /// PEM file of the certificates that https:// URLs are trusted by
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", value_hint = clap::ValueHint::FilePath)]
    ca_file: Option<PathBuf>,
    /// Takes any certificate of https:// URLs
    #[arg(long)]
    insecure: bool,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-" => Ok(Self::Input),
            _ if text.starts_with("http://") || text.starts_with("https://") => text.parse().map(Self::Url),
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input => out.write_str("standard input"),
            Self::File(file) => write!(out, "{}", file.display()),
            Self::Url(url) => write!(out, "{url}"),
        }
    }
}

impl Url {
    /// Host and port, as a request names them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("expected http:// or https://".to_owned()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let is_graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let expected = || "expected http://HOST[:PORT][/PATH]".to_owned();
        let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?,
        };
        if host.is_empty() || host.contains('@') || !is_graphic(host) || !is_graphic(&path) {
            return Err(expected());
        }
        Ok(Self { is_tls, host: host.to_owned(), port, path })
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}://{}{}", if self.is_tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Reads one URL again and again over one connection.
#[derive(Debug)]
pub(crate) struct Reader {
    client: Client,
    buffers: Buffers,
    runtime: tokio::runtime::Runtime,
}

impl Reader {
    /// Prepares to read that path of the URL's server.
    ///
    /// # Errors
    ///
    /// What cannot be used of `access`.
    pub(crate) fn new(url: &Url, access: &Access) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let peer = Peer::Name(url.host.clone(), url.port);
        let mut client = Client::new(peer, &url.authority(), &url.path, MAX_BYTES);
        if url.is_tls {
            let tls = match &access.ca_file {
                Some(file) => Tls::with_ca_file(file).map_err(|why| format!("--ca-file {}: {why}", file.display()))?,
                None if access.insecure => Tls::without_verification()?,
                None => return Err(format!("{url}: an https:// URL wants --ca-file or --insecure")),
            };
            client.set_tls(Some(tls.named(&url.host)));
        }
        if let Some(file) = &access.token_file {
            let token =
                std::fs::read_to_string(file).map_err(|error| format!("--token-file {}: {error}", file.display()))?;
            let token = token.trim();
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("--token-file {}: it does not hold one word of visible ASCII", file.display()));
            }
            client.set_token(Some(Arc::from(token)));
        }
        Ok(Self { client, buffers: Buffers::default(), runtime })
    }

    /// Reads it once.
    ///
    /// # Errors
    ///
    /// Why there is nothing.
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, String> {
        let Self { client, buffers, runtime } = self;
        runtime.block_on(client.get(buffers, TIMEOUT, <[u8]>::to_vec)).map_err(|error| error.to_string())
    }
}

impl Source {
    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub(crate) fn read(&self, access: &Access) -> Result<Vec<u8>, String> {
        match self {
            Self::Input => read_file(None),
            Self::File(file) => read_file(Some(file)),
            Self::Url(url) => Reader::new(url, access)?.read().map_err(|error| format!("{url}: {error}")),
        }
    }
}

/// Reads a file, or standard input where there is none or it is called `-`.
///
/// # Errors
///
/// Why it cannot be read.
pub(crate) fn read_file(file: Option<&Path>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match file.filter(|file| *file != Path::new("-")) {
        None => {
            let read = std::io::stdin().read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(|error| format!("standard input: {error}"))
        }
        Some(file) => std::fs::read(file).map_err(|error| format!("{}: {error}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_files() {
        let url = |text: &str| match text.parse() {
            Ok(Source::Url(url)) => Some(url.to_string()),
            _ => None,
        };
        assert_eq!(url("http://a").as_deref(), Some("http://a:80/"));
        assert_eq!(url("https://a/b?c=d#e").as_deref(), Some("https://a:443/b?c=d"));
        assert_eq!(url("http://[::1]:9090").as_deref(), Some("http://[::1]:9090/"));
        assert_eq!(url("http://a:1?b").as_deref(), Some("http://a:1/?b"));
        assert_eq!(url("metrics.txt"), None);
        for bad in ["http://", "http://a:0", "http://a:x", "http://u:p@a", "http://a b", "http://a/b c", "ftp://a"] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
        assert_eq!("-".parse(), Ok(Source::Input));
    }
}
