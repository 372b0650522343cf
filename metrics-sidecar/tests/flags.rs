//! Flags, good and bad.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test should stop at what it did not expect"
)]

use std::time::Duration;

use clap::Parser;
use metrics_sidecar::config::{AddressFamily, Config, PageConfig, PoolConfig, Source};
use metrics_sidecar::dialect::EngineKind;
use metrics_sidecar::eds::EdsFile;
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
            page: PageConfig { path: "/metrics".into(), ..PageConfig::default() },
            eds: None,
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
        "--otlp-endpoint",
        "collector:4317",
        "--otlp-interval",
        "60",
    ])
    .unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "--pool \"nothing\": expected NAME=SOURCE",
            "--pool a: \"consul:x\" begins with none of envoy:, static:, dns:, inferencepool:, pods:",
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
            "--otlp-interval \"60\": expected a number above zero with ms, s or m, such as 60s",
            "--otlp-endpoint \"collector:4317\": expected http://HOST[:PORT][/PATH] or https://…",
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
fn a_pool_is_written_where_its_options_say() {
    let parse_options = |options: &[&str]| {
        let pools = ["--pool", "p=dns:vllm:8000", "--pool", "q=envoy:x", "--pool", "r=static:10.0.0.1:80"];
        let flags = options.iter().flat_map(|option| ["--pool-option", option]);
        parse(&pools.iter().copied().chain(flags).collect::<Vec<_>>())
    };
    let eds = |path: &str, cluster: &str| Some(EdsFile { path: path.into(), cluster: cluster.into() });
    let config = parse_options(&["r=eds-cluster=c", "p=eds-file=/run/p.json", "r=eds-file=r.yaml"]).unwrap();
    assert_eq!((&config.pools[0].eds, &config.pools[1].eds), (&eds("/run/p.json", "p"), &None));
    assert_eq!(config.pools[2].eds, eds("r.yaml", "c"));
    for options in [
        &["q=eds-file=/run/q.json"][..],
        &["p=eds-file=/run/p.pb"],
        &["p=eds-file="],
        &["p=eds-cluster=c"],
        &["p=eds-file=/run/p.json", "p=eds-cluster="],
        &["p=eds-file=/run/x.json", "r=eds-file=/run/x.json"],
        &["p=namespace=ns"],
    ] {
        assert_eq!(parse_options(options).unwrap_err().len(), 1, "{options:?}");
    }
}

#[cfg(feature = "kubernetes")]
#[test]
fn pools_of_kubernetes_are_read_with_their_api_server_and_all_that_is_wrong_is_told() {
    use kubernetes::{Connection, Followed, IpFamily};
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "t").unwrap();
    std::fs::write(folder.path().join("namespace"), "models\n").unwrap();
    let parse_pools = |pools: &[&str], options: &[&str]| {
        let mut flags = vec![
            "--kubernetes-api-server",
            "https://10.0.0.1:6443",
            "--kubernetes-token-file",
            token.to_str().unwrap(),
        ];
        flags.extend(pools.iter().flat_map(|pool| ["--pool", pool]));
        flags.extend(options.iter().flat_map(|option| ["--pool-option", option]));
        parse(&flags)
    };
    let pools = ["a=inferencepool:my", "b=inferencepool:there/my", "c=pods:app=vllm,!old:8000,8001"];
    let config = parse_pools(&pools, &["c=namespace=elsewhere", "b=address-family=ipv6"]).unwrap();
    let followed: Vec<&Followed> = config
        .pools
        .iter()
        .map(|pool| match &pool.source {
            Source::Kubernetes { connection: Connection::Server { url, token_file, .. }, followed } => {
                assert_eq!((url.as_str(), token_file.as_ref()), ("https://10.0.0.1:6443", Some(&token)));
                followed
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let pool = |namespace: &str, family| Followed::Pool { namespace: namespace.into(), name: "my".into(), family };
    assert_eq!(followed[0], &pool("models", None));
    assert_eq!(followed[1], &pool("there", Some(IpFamily::Ipv6)));
    assert_eq!(followed[2].namespace(), "elsewhere");
    let bad = ["a=inferencepool:", "b=pods:app=vllm", "c=pods:app=vllm:0", "d=pods:=:80"];
    assert_eq!(parse_pools(&bad, &[]).unwrap_err().len(), bad.len());
    let options = ["a=namespace=x", "a=address-family=both", "c=namespace=X"];
    assert_eq!(parse_pools(&pools, &options).unwrap_err().len(), options.len());
    let plain = parse(&["--pool=a=inferencepool:my", "--kubernetes-api-server=http://10.0.0.1:80"]).unwrap_err();
    assert!(plain[0].to_string().starts_with("--kubernetes-api-server"), "{plain:?}");
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
