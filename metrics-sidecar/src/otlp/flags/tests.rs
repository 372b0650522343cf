use std::io::Write as _;

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    otlp: OtlpFlags,
}

const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/local-cert.pem");

fn parse(flags: &[&str], variables: &[(&str, &str)]) -> Result<Option<OtlpConfig>, Vec<OtlpFlagError>> {
    let program = Program::try_parse_from(["program"].iter().chain(flags)).unwrap();
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    program.otlp.parse_all(9090, env)
}

fn parsed(flags: &[&str], variables: &[(&str, &str)]) -> OtlpConfig {
    parse(flags, variables).unwrap().unwrap()
}

fn attribute<'a>(config: &'a OtlpConfig, key: &str) -> Option<&'a str> {
    let mut found = config.resource.iter().filter(|(known, _)| known == key);
    let value = found.next().map(|(_, value)| value.as_str());
    assert!(found.next().is_none(), "{key} is there twice");
    value
}

#[test]
fn nothing_is_pushed_unless_there_is_an_endpoint() {
    // Variables that say how are not looked at then: they are perhaps for another program.
    let others = [("OTEL_METRIC_EXPORT_INTERVAL", "often"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    assert_eq!(parse(&[], &others), Ok(None));
    assert_eq!(parse(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
    for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_METRICS_EXPORTER", "none")] {
        assert_eq!(parse(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), off]), Ok(None));
        assert!(parse(&["--otlp-endpoint", "http://c:4318"], &[off]).unwrap().is_some());
    }
}

#[test]
fn defaults_are_those_of_opentelemetry_and_the_service_has_a_name_and_an_id() {
    let config = parsed(&["--otlp-endpoint", "http://collector:4318"], &[]);
    assert_eq!(config.target.to_string(), "http://collector:4318/v1/metrics");
    assert_eq!(
        (config.interval, config.timeout, config.gzip),
        (Duration::from_secs(60), Duration::from_secs(10), false)
    );
    assert!(config.headers.is_empty());
    assert_eq!(attribute(&config, "service.name"), Some("inpick"));
    assert!(attribute(&config, "service.instance.id").unwrap().ends_with(":9090"));
    assert_eq!(attribute(&config, "service.version"), Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn variables_say_the_same_as_flags_and_those_of_metrics_stand_before_those_of_all_signals() {
    let general = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/base/"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-tenant = a%2Cb ,"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", CA),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "15000"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,zone=a%20b,service.instance.id=7,zone=c"),
    ];
    let config = parsed(&[], &general);
    assert_eq!(config.target.to_string(), "http://all:4318/base/v1/metrics");
    assert_eq!(
        (config.interval, config.timeout, config.gzip),
        (Duration::from_secs(15), Duration::from_millis(2500), true)
    );
    assert_eq!(config.headers["authorization"], "Bearer abc");
    assert_eq!(config.headers["x-tenant"], "a,b");
    assert!(!format!("{config:?}").contains("abc"), "secrets are not printed");
    assert_eq!(config.trust, CollectorTrust::File(CA.into()));
    assert_eq!(attribute(&config, "service.name"), Some("edge"));
    assert_eq!((attribute(&config, "zone"), attribute(&config, "service.instance.id")), (Some("c"), Some("7")));

    let own = [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:4318"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-own=1"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
    ];
    let config = parsed(&[], &[&own[..], &general[..]].concat());
    assert_eq!(config.target.to_string(), "http://metrics:4318/");
    assert_eq!((config.timeout, config.gzip, config.headers.len()), (Duration::from_millis(1), false, 1));

    let flags = ["--otlp-endpoint=http://flag", "--otlp-interval=2m", "--otlp-timeout=3s", "--otlp-compression=none"];
    let config = parsed(&flags, &general);
    assert_eq!(config.target.to_string(), "http://flag:80/v1/metrics");
    assert_eq!(
        (config.interval, config.timeout, config.gzip),
        (Duration::from_secs(120), Duration::from_secs(3), false)
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let mut no_certificate = tempfile::NamedTempFile::new().unwrap();
    no_certificate.write_all(b"nothing").unwrap();
    let file = no_certificate.path().to_str().unwrap();
    let flags = ["--otlp-interval=often", "--otlp-timeout=0s", "--otlp-compression=zstd", "--otlp-ca-file", file];
    let told = |errors: &[OtlpFlagError]| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(parse(&flags, &[]).unwrap_err().len(), 4, "without an endpoint too");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret,content-type=x,b\u{e9}=1,c=%00"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
    ];
    let said = told(&parse(&flags, &variables).unwrap_err());
    for wrong in [
        "--otlp-interval \"often\": expected",
        "--otlp-timeout \"0s\": expected",
        "--otlp-compression \"zstd\": expected gzip or none",
        "--otlp-ca-file: ",
        "OTEL_EXPORTER_OTLP_ENDPOINT \"collector:4317\": expected http://",
        "OTEL_EXPORTER_OTLP_PROTOCOL \"grpc\": only http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS: item 2 is not NAME=VALUE",
        "OTEL_EXPORTER_OTLP_HEADERS: \"content-type\" cannot be",
        "OTEL_EXPORTER_OTLP_HEADERS: \"b\u{e9}\" cannot be",
        "OTEL_EXPORTER_OTLP_HEADERS: \"c\" cannot be",
        "OTEL_RESOURCE_ATTRIBUTES: item 1",
    ] {
        assert!(said.contains(wrong), "{wrong} is not in\n{said}");
    }
    let milliseconds = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate"),
    ];
    assert_eq!(parse(&[], &milliseconds).unwrap_err().len(), 3);
}
