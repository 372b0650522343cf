//! The command line.

use std::process::Command;

use crate::guest;

fn host_sim(arguments: &[&str], request: &str) -> (bool, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    file("request.http", request);
    file("response.http", "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nresponse");
    file("backend.http", "HTTP/1.1 200 OK\r\n\r\nsnapshot");
    file("service.txt", "conf:call=backend,100");
    file("plugin.txt", "conf:count=configured");
    file("ticks.txt", "conf:tick_every=1000;tick:count=ticked");
    let output = Command::new(env!("CARGO_BIN_EXE_host-sim"))
        .args(["run"])
        .arg(guest::path())
        .args(["--request", "request.http"])
        .args(arguments)
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_run_prints_directive_headers_body_stats_and_crossings() {
    let request = "POST /v1 HTTP/1.1\r\nHost: svc\r\nx-script: rb:size;rb:set=x=1;rh:count=seen\r\n\r\nhello";
    let (ok, out, err) = host_sim(&["--config", "plugin.txt", "--response", "response.http", "--chunk", "3"], request);
    assert!(ok, "{err}");
    let expected = [
        "# directive\ncontinued\n# upstream: complete\n:authority: svc\n:path: /v1\n",
        "\n\nhello\n# downstream: complete\n:status: 200\ncontent-type: text/plain\n\nresponse\n",
        "worker0 level 2: size 3 end false\n",
        "counter configured 1\ncounter seen 1\n",
        "     2 -> proxy_on_request_body\n",
        "     1 <- proxy_define_metric\n",
    ];
    for part in expected {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    assert!(!out.contains("# trace"), "{out}");
}

#[test]
fn instructions_are_those_of_the_last_of_several_exchanges() {
    let request = "POST / HTTP/1.1\r\nHost: svc\r\nx-script: rb:size\r\n\r\nhello";
    let arguments = ["--instructions", "--before", "2", "--response", "response.http"];
    let (ok, out, err) = host_sim(&arguments, request);
    assert!(ok, "{err}");
    let line = out.lines().find(|line| line.starts_with("proxy_on_request_body")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((fields[1], fields[3], fields[4]), ("1", "1", "0"), "{out}");
    assert!(fields[2].parse::<u64>().unwrap() > 100, "{out}");
    let total = out.lines().find_map(|line| line.strip_prefix("# instructions of the stream: ")).unwrap();
    let table = out.lines().filter(|line| line.starts_with("proxy_on_"));
    let sum: u64 = table.map(|line| line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total.parse::<u64>().unwrap(), sum, "{out}");
    assert!(!host_sim(&["--property", "nonsense"], request).0);
}

#[test]
fn what_a_module_writes_on_ticks_is_among_the_stats() {
    let request = "GET / HTTP/1.1\r\nHost: svc\r\n\r\n";
    let (ok, out, err) = host_sim(&["--config", "ticks.txt", "--settle", "2500"], request);
    assert!(ok, "{err}");
    assert!(out.contains("counter ticked 2\n"), "{out}");
    let (_, out, _) = host_sim(&["--config", "ticks.txt", "--settle", "0"], request);
    assert!(!out.contains("counter ticked"), "{out}");
}

#[test]
fn a_run_shows_the_service_and_the_trace() {
    let request = "GET / HTTP/1.1\r\nHost: svc\r\nx-script: rh:reply=429,busy\r\n\r\n";
    let arguments =
        ["--service-config", "service.txt", "--cluster", "backend=backend.http", "--advance", "10", "--trace"];
    let (ok, out, err) = host_sim(&arguments, request);
    assert!(ok, "{err}");
    assert!(out.contains("# directive\nlocal reply 429 (Guest, details \"\")\n# upstream: nothing\n"), "{out}");
    assert!(out.contains("service level 2: response 200 snapshot\n"), "{out}");
    assert!(out.contains("<- proxy_send_local_response(429, 1 headers, busy) Ok\n"), "{out}");
}

#[test]
fn a_bad_request_file_fails_with_its_name() {
    let (ok, _, err) = host_sim(&[], "hello");
    assert!(!ok);
    assert!(err.contains("request.http: not an HTTP/1.1 message"), "{err}");
}

#[test]
fn imports_and_exports_are_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_host-sim")).arg("inspect").arg(guest::path()).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("import env.proxy_get_buffer_bytes\n"), "{out}");
    assert!(out.contains("export proxy_on_request_headers\n"), "{out}");
}
