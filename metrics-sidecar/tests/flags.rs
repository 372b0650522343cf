//! Flags, good and bad.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test should stop at what it did not expect")]

use std::time::Duration;

use clap::Parser;
use metrics_sidecar::config::{AddressFamily, Config, PageConfig, PoolConfig, Source};
use metrics_sidecar::dialect::EngineKind;
use metrics_sidecar::endpoint::DiscoveredPod;
use metrics_sidecar::flags::{FlagError, Flags};

fn parse(arguments: &[&str]) -> Result<Config, Vec<FlagError>> {
    Flags::try_parse_from(["metrics-sidecar"].iter().chain(arguments)).unwrap().parse_all()
}

#[test]
fn every_kind_of_source_is_read() {
    let config = parse(&[
        "--pool",
        "a=envoy:vllm",
        "--pool",
        "b=static:10.0.0.1:8000, pod-1@10.0.0.2:8000,ns/pod-2@[::1]:8000",
        "--pool",
        "c=dns:vllm.default.svc:8000",
        "--envoy-admin",
        "http://[::1]:9901/",
        "--poll-interval",
        "0.1s",
    ])
    .unwrap();
    assert_eq!(
        config.pools[0],
        PoolConfig {
            name: "a".into(),
            source: Source::Envoy("vllm".into()),
            page: PageConfig { path: "/metrics".into(), ..PageConfig::default() }
        }
    );
    let named = |address: &str, pod: &str, namespace: &str| DiscoveredPod {
        pod: pod.into(),
        namespace: namespace.into(),
        ..DiscoveredPod::new(address.parse().unwrap())
    };
    let expected =
        vec![named("10.0.0.1:8000", "", ""), named("10.0.0.2:8000", "pod-1", ""), named("[::1]:8000", "pod-2", "ns")];
    assert_eq!(config.pools[1].source, Source::Static(expected));
    assert_eq!(
        config.pools[2].source,
        Source::Dns { host: "vllm.default.svc".into(), port: 8000, family: AddressFamily::PreferIpv4 }
    );
    assert_eq!(config.envoy_admin.to_string(), "[::1]:9901");
    assert_eq!(config.poll_interval, Duration::from_millis(100));
    assert_eq!(config.listen.to_string(), "127.0.0.1:9090");
}

#[test]
fn all_that_is_wrong_is_reported_at_once() {
    let errors = parse(&[
        "--pool",
        "nothing",
        "--pool",
        "a=consul:x",
        "--pool",
        "b=static:10.0.0.1,x@10.0.0.2:1,10.0.0.2:1",
        "--pool",
        "c=dns:name",
        "--pool",
        "d=envoy:",
        "--pool",
        "e=envoy:x",
        "--pool",
        "e=envoy:y",
        "--listen",
        "nowhere",
        "--envoy-admin",
        "https://x:1",
        "--poll-interval",
        "0ms",
        "--staleness",
        "2",
        "--metrics-path",
        "metrics",
        "--threads",
        "0",
    ])
    .unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "--pool \"nothing\": expected NAME=SOURCE",
            "--pool a: \"consul:x\" begins with none of envoy:, static:, dns:",
            "--pool b: \"10.0.0.1\" is not [[NAMESPACE/]POD@]IP:PORT",
            "--pool b: 10.0.0.2:1 is listed twice",
            "--pool c: \"name\" is not HOST:PORT",
            "--pool d: envoy: wants the name of a cluster",
            "--pool \"e\": a pool of that name is already given",
            "--listen \"nowhere\": expected IP:PORT",
            "--envoy-admin \"https://x:1\": expected http://HOST:PORT",
            "--poll-interval \"0ms\": expected a number above zero with ms, s or m, such as 50ms",
            "--staleness \"2\": expected a number above zero with ms, s or m, such as 50ms",
            "--metrics-path \"metrics\": expected a path that begins with / and holds no blanks",
            "--threads \"0\": expected a whole number above zero",
        ]
    );
}

#[test]
fn options_of_a_pool_are_read_and_all_that_is_wrong_with_them_is_reported() {
    let pool = ["--pool", "p=dns:vllm:8000", "--pool", "q=envoy:x", "--metrics-path", "/m"];
    let parse_options = |options: &[&str]| {
        let flags = options.iter().flat_map(|option| ["--pool-option", option]);
        parse(&pool.iter().copied().chain(flags).collect::<Vec<_>>())
    };
    let config = parse_options(&["p=metrics-port=9400", "p=metrics-path=/a=b", "p=address-family=ipv6"]).unwrap();
    assert_eq!(config.pools[0].page, PageConfig { port: Some(9400), path: "/a=b".into(), ..PageConfig::default() });
    assert_eq!(config.pools[0].source, Source::Dns { host: "vllm".into(), port: 8000, family: AddressFamily::Ipv6 });
    assert_eq!(config.pools[1].page, PageConfig { path: "/m".into(), ..PageConfig::default() });
    let config = parse_options(&["p=engine=sglang"]).unwrap();
    assert_eq!((config.pools[0].page.engine, config.pools[1].page.engine), (Some(EngineKind::Sglang), None));
    let bad = [
        "p",
        "p=engine=vLLM",
        "r=metrics-port=1",
        "p=metrics-port=0",
        "p=metrics-path=x",
        "p=metrics-token-file=/nowhere",
        "p=metrics-ca-file=/nowhere",
        "p=metrics-tls-verify=maybe",
        "p=address-family=ipv5",
        "q=address-family=ipv4",
        "p=colour=red",
    ];
    let errors = parse_options(&bad).unwrap_err();
    assert_eq!(errors.len(), bad.len());
    for (error, option) in errors.iter().zip(bad) {
        assert!(error.to_string().starts_with(&format!("--pool-option {option:?}: ")), "{error}");
    }

    for (options, fits) in [
        (["q=metrics-scheme=https", "q=metrics-tls-verify=off"], true),
        (["q=metrics-scheme=https", "p=metrics-tls-verify=off"], false),
        (["q=metrics-scheme=http", "q=metrics-tls-verify=off"], false),
        (["q=metrics-scheme=https", "q=metrics-server-name=x"], false),
    ] {
        assert_eq!(parse_options(&options).is_ok(), fits, "{options:?}");
    }
}

#[test]
fn an_engine_whose_page_has_another_place_is_read_there() {
    let path = |flags: &[&str]| {
        let pool = ["--pool", "p=dns:x:1", "--pool-option", "p=engine=trtllm-serve"];
        parse(&pool.iter().chain(flags).copied().collect::<Vec<_>>()).unwrap().pools[0].page.path.clone()
    };
    assert_eq!(path(&[]), "/prometheus/metrics");
    assert_eq!(path(&["--metrics-path", "/m"]), "/m");
    assert_eq!(path(&["--pool-option", "p=metrics-path=/metrics"]), "/metrics");
}
