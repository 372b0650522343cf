//! `inpick drain`: lets an Envoy that is to end finish its requests first. It is what a pod does before its gateway gets SIGTERM, on
//! which Envoy breaks off whatever it serves.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;

use crate::source::{Access, Reader, Url};

/// How often requests are counted. An end that is seen this late delays nothing that anybody waits for.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long Envoy's admin page may take for one answer: it runs on Envoy's main thread, which may be busy.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest status line in bytes that is read of an answer.
const MAX_STATUS_BYTES: u64 = 1024;

/// What `drain` is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct DrainFlags {
    /// Envoy's admin page
    #[arg(long, default_value = "http://127.0.0.1:9901", value_name = "URL")]
    admin: Url,
    /// The `stat_prefix` of the connection manager whose requests are to end
    #[arg(long, default_value = "gateway", value_name = "NAME", value_parser = stat_prefix)]
    stat_prefix: String,
    /// Goes on for at least so long, seconds: load balancers need some to hear that this gateway ends
    #[arg(long, default_value = "15", value_name = "SECONDS", value_parser = seconds)]
    least: Duration,
    /// Gives up after so long, seconds
    #[arg(long, default_value = "300", value_name = "SECONDS", value_parser = seconds)]
    most: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected a number of seconds from 0 to 86400".to_owned())
}

/// What can stand in a query as it is, and in a regular expression but for its dots.
fn stat_prefix(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let plain = Some(text).filter(|text| !text.is_empty() && text.bytes().all(is_plain));
    plain.map(str::to_owned).ok_or_else(|| "expected letters, digits, `_`, `-` and `.`".to_owned())
}

/// Fails Envoy's health check, upon which its answers close their connections, and waits until no request is left.
///
/// # Errors
///
/// Why Envoy cannot be told or asked, or how many requests were left when the time was over.
pub(crate) fn run(flags: &DrainFlags) -> Result<(), String> {
    let begin = Instant::now();
    post(&flags.admin, "/healthcheck/fail")?;
    let name = format!("http.{}.downstream_rq_active", flags.stat_prefix);
    let mut stats = flags.admin.clone();
    // `^` and `\.` as a query spells them.
    stats.path = format!("/stats?filter=%5E{}$", name.replace('.', "%5C."));
    let mut reader = Reader::new(&stats, &Access::default())?;
    loop {
        let page = reader.read().map_err(|error| format!("{stats}: {error}"))?;
        let active = active(&page, &name).ok_or_else(|| format!("{stats}: Envoy has no stat {name}"))?;
        let elapsed = begin.elapsed();
        if active == 0 && elapsed >= flags.least {
            return Ok(());
        }
        if elapsed >= flags.most {
            return Err(format!("{active} requests are left after {} s", flags.most.as_secs_f64()));
        }
        std::thread::sleep(INTERVAL.min(flags.most.saturating_sub(elapsed)));
    }
}

/// The value of a stat on a page of `name: value` lines.
fn active(page: &[u8], name: &str) -> Option<u64> {
    let page = String::from_utf8_lossy(page);
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value?.trim().parse().ok()
}

/// Posts nothing to a path of Envoy's admin page.
fn post(admin: &Url, path: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{admin}: {error}");
    let authority = admin.authority();
    let mut addresses = authority.to_socket_addrs().map_err(failed)?;
    let address = addresses.next().ok_or_else(|| format!("{admin}: it has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, ADMIN_TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(ADMIN_TIMEOUT)).map_err(failed)?;
    stream.set_write_timeout(Some(ADMIN_TIMEOUT)).map_err(failed)?;
    let request =
        format!("POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_STATUS_BYTES).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("{admin}: POST {path}: {status:?}"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test file: a failure here is the test's failure")]
mod tests {
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// An admin page that tells of so many requests, one number a question and the last one for ever, and what it was asked.
    fn admin(counts: &[u64]) -> (Url, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut left = counts.to_vec();
        let known = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let line = String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned();
                let body = if line.starts_with("GET") {
                    let count = if left.len() > 1 { left.remove(0) } else { left[0] };
                    format!("http.gateway.downstream_rq_active: {count}\n")
                } else {
                    "OK\n".to_owned()
                };
                known.lock().unwrap().push(line);
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        (url, asked)
    }

    fn flags(admin: Url, least: f64, most: f64) -> DrainFlags {
        let (least, most) = (Duration::from_secs_f64(least), Duration::from_secs_f64(most));
        DrainFlags { admin, stat_prefix: "gateway".to_owned(), least, most }
    }

    #[test]
    fn it_fails_the_health_check_and_ends_when_no_request_is_left() {
        let (url, asked) = admin(&[3, 1, 0]);
        run(&flags(url, 0.0, 60.0)).unwrap();
        let asked = asked.lock().unwrap();
        assert_eq!(asked[0], "POST /healthcheck/fail HTTP/1.1");
        assert_eq!(asked[1], "GET /stats?filter=%5Ehttp%5C.gateway%5C.downstream_rq_active$ HTTP/1.1");
        assert_eq!(asked.len(), 4);
    }

    #[test]
    fn it_goes_on_for_the_least_time_though_nothing_is_left() {
        let (url, _) = admin(&[0]);
        let begin = Instant::now();
        run(&flags(url, 0.5, 60.0)).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(500));
    }

    #[test]
    fn it_gives_up_when_requests_are_left_at_the_end_of_its_time() {
        let (url, _) = admin(&[2]);
        assert_eq!(run(&flags(url, 0.0, 0.3)), Err("2 requests are left after 0.3 s".to_owned()));
    }

    #[test]
    fn an_envoy_that_is_away_or_has_no_such_stat_is_an_error() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(run(&flags(format!("http://{free}").parse().unwrap(), 0.0, 1.0)).is_err());
        let (url, _) = admin(&[0]);
        let other = DrainFlags { stat_prefix: "other".to_owned(), ..flags(url, 0.0, 1.0) };
        assert!(run(&other).unwrap_err().ends_with("Envoy has no stat http.other.downstream_rq_active"));
    }

    #[test]
    fn a_prefix_that_would_be_read_as_an_expression_is_refused() {
        assert!(stat_prefix("outbound_0.0.0.0_8080").is_ok());
        for text in ["", "a b", "a&b", ".*"] {
            assert!(stat_prefix(text).is_err(), "{text:?}");
        }
    }
}
