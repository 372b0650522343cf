//! The two text formats that Prometheus reads, and which of them a request asks for. Pure.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::borrow::Cow;

/// A format of the page.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// Prometheus' own text format.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Media type of the page.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What ends the page.
    pub(crate) const fn end(self) -> &'static [u8] {
        match self {
            Self::Text => b"",
            Self::OpenMetrics => b"# EOF\n",
        }
    }

    /// The format that `Accept` prefers; what it does not name at all is answered in text, as Prometheus' own exporters do.
    /// Of equals the more telling one is taken.
    pub(crate) fn negotiate(accept: &str) -> Self {
        let quality = |format: Self| {
            let of = |matches: &dyn Fn(&Offer<'_>) -> bool| {
                offers(accept).filter(matches).map(|offer| offer.quality).reduce(f32::max)
            };
            let media = match format {
                Self::Text => "text/plain",
                Self::OpenMetrics => "application/openmetrics-text",
            };
            let exact = of(&|offer| offer.value.eq_ignore_ascii_case(media) && format.has_version(offer.version));
            // A wildcard is no wish for the newer format.
            let wildcards: &[&str] = if format == Self::Text { &["text/*", "*/*"] } else { &[] };
            let wild = || wildcards.iter().find_map(|wildcard| of(&|offer| offer.value == *wildcard));
            exact.or_else(wild).unwrap_or(0.0)
        };
        let open_metrics = quality(Self::OpenMetrics);
        if open_metrics > 0.0 && open_metrics >= quality(Self::Text) { Self::OpenMetrics } else { Self::Text }
    }

    fn has_version(self, version: Option<&str>) -> bool {
        match self {
            Self::Text => version.is_none_or(|version| version.starts_with("0.0.")),
            Self::OpenMetrics => version.is_none_or(|version| matches!(version, "1.0.0" | "0.0.1")),
        }
    }

    /// A bucket's bound as the format spells it: OpenMetrics wants a fraction or an exponent.
    pub(crate) fn bound(self, le: &str) -> Cow<'_, str> {
        match self {
            Self::OpenMetrics if le.bytes().all(|byte| byte.is_ascii_digit()) => Cow::Owned(format!("{le}.0")),
            _ => Cow::Borrowed(le),
        }
    }

    /// What a header names: OpenMetrics' counters have `_total` in their samples alone.
    pub(crate) fn family<'a>(self, name: &'a str, kind: &str) -> &'a str {
        match self {
            Self::OpenMetrics if kind == "counter" => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        }
    }

    /// The word behind `# TYPE`.
    pub(crate) fn kind(self, kind: &str) -> &str {
        match (self, kind) {
            (Self::OpenMetrics, "untyped") => "unknown",
            (Self::Text, "unknown") => "untyped",
            _ => kind,
        }
    }

    /// Prints the two headers of a family.
    pub(crate) fn print_headers(self, out: &mut Vec<u8>, name: &str, help: &str, kind: &str) {
        let name = self.family(name, kind);
        out.extend_from_slice(b"# HELP ");
        out.extend_from_slice(name.as_bytes());
        out.push(b' ');
        for byte in help.bytes() {
            match (byte, self) {
                (b'\\', _) => out.extend_from_slice(b"\\\\"),
                (b'\n', _) => out.extend_from_slice(b"\\n"),
                (b'"', Self::OpenMetrics) => out.extend_from_slice(b"\\\""),
                (byte, _) => out.push(byte),
            }
        }
        out.extend_from_slice(b"\n# TYPE ");
        out.extend_from_slice(name.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.kind(kind).as_bytes());
        out.push(b'\n');
    }
}

/// Whether `Accept-Encoding` lets the page be compressed with gzip.
pub(crate) fn takes_gzip(accept_encoding: &str) -> bool {
    let of = |name: &str| {
        offers(accept_encoding).find(|offer| offer.value.eq_ignore_ascii_case(name)).map(|offer| offer.quality > 0.0)
    };
    of("gzip").or_else(|| of("x-gzip")).or_else(|| of("*")).unwrap_or(false)
}

/// One item of a header that lists what a client takes.
struct Offer<'a> {
    value: &'a str,
    version: Option<&'a str>,
    quality: f32,
}

/// The items of such a header; one whose quality cannot be read is none.
fn offers(header: &str) -> impl Iterator<Item = Offer<'_>> {
    header.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let value = parts.next().filter(|value| !value.is_empty())?;
        let (mut version, mut quality) = (None, 1.0);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("q") => {
                    quality = value.parse().ok().filter(|quality| (0.0..=1.0).contains(quality))?;
                }
                name if name.eq_ignore_ascii_case("version") => version = Some(value),
                _ => {}
            }
        }
        Some(Offer { value, version, quality })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_scraper_prefers() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let with_protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            prometheus_2,
            prometheus_3,
            with_protobuf,
            "application/openmetrics-text",
            "Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1",
            "text/plain;q=0.5, application/openmetrics-text;q=0.5",
            "text/plain;q=0, application/openmetrics-text;q=0.001",
        ] {
            assert_eq!(Format::negotiate(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/*",
            "text/plain;version=0.0.4, application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0, */*",
            "application/openmetrics-text;q=0.4, text/*;q=0.5",
            "application/openmetrics-text;q=0.4, */*;q=0.5",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=nonsense",
            "application/openmetrics-text;q=7",
            "application/json",
        ] {
            assert_eq!(Format::negotiate(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn the_page_is_compressed_only_for_those_who_say_so() {
        for header in ["gzip", "deflate, GZip;q=0.5", "*", "br, *;q=0.1", "x-gzip"] {
            assert!(takes_gzip(header), "{header}");
        }
        for header in ["", "identity", "gzip;q=0", "gzip;q=0.0, *", "*;q=0", "br", "gzipped"] {
            assert!(!takes_gzip(header), "{header}");
        }
    }

    #[test]
    fn bounds_of_open_metrics_have_a_fraction() {
        let bounds = ["1", "0.5", "32778", "1.048576e+06", "+Inf"];
        assert_eq!(bounds.map(|le| Format::OpenMetrics.bound(le)), ["1.0", "0.5", "32778.0", "1.048576e+06", "+Inf"]);
        assert_eq!(bounds.map(|le| Format::Text.bound(le)), bounds);
    }
}
