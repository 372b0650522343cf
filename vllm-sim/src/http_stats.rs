//! Counts by path, method and status class: the `http_` families of the page.

use std::time::Duration;

use crate::histogram::Histogram;

const HIGHR_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];
const HANDLER_SECONDS: &[f64] = &[0.1, 0.5, 1.0];

/// Requests of one handler, method and status class.
#[derive(Clone, Debug)]
pub(crate) struct RequestCount {
    pub(crate) handler: &'static str,
    pub(crate) method: String,
    pub(crate) status: &'static str,
    pub(crate) count: u64,
    pub(crate) created: f64,
}

/// Bytes of one handler.
#[derive(Clone, Debug)]
pub(crate) struct SizeCount {
    pub(crate) handler: &'static str,
    pub(crate) count: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) created: f64,
}

/// Durations of one handler and method.
#[derive(Clone, Debug)]
pub(crate) struct DurationCount {
    pub(crate) handler: &'static str,
    pub(crate) method: String,
    pub(crate) seconds: Histogram,
    pub(crate) created: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct HttpStats {
    pub(crate) requests: Vec<RequestCount>,
    pub(crate) sizes: Vec<SizeCount>,
    pub(crate) durations: Vec<DurationCount>,
    pub(crate) highr: Histogram,
}

impl Default for HttpStats {
    fn default() -> Self {
        Self { requests: Vec::new(), sizes: Vec::new(), durations: Vec::new(), highr: Histogram::new(HIGHR_SECONDS) }
    }
}

/// One response, as it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served<'a> {
    /// The path of a known handler, or `none`.
    pub(crate) handler: &'static str,
    pub(crate) method: &'a str,
    pub(crate) status: u16,
    pub(crate) request_bytes: u64,
    /// 0 for a stream, whose length no header tells.
    pub(crate) response_bytes: u64,
    pub(crate) took: Duration,
    /// Seconds since 1970.
    pub(crate) now: f64,
}

impl HttpStats {
    pub(crate) fn record(&mut self, served: Served<'_>) {
        let class = match served.status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let seconds = served.took.as_secs_f64();
        self.highr.observe(seconds);
        match self
            .requests
            .iter_mut()
            .find(|one| one.handler == served.handler && one.status == class && one.method == served.method)
        {
            Some(one) => one.count += 1,
            None => self.requests.push(RequestCount {
                handler: served.handler,
                method: served.method.to_owned(),
                status: class,
                count: 1,
                created: served.now,
            }),
        }
        match self.sizes.iter_mut().find(|one| one.handler == served.handler) {
            Some(one) => {
                one.count += 1;
                one.request_bytes += served.request_bytes;
                one.response_bytes += served.response_bytes;
            }
            None => self.sizes.push(SizeCount {
                handler: served.handler,
                count: 1,
                request_bytes: served.request_bytes,
                response_bytes: served.response_bytes,
                created: served.now,
            }),
        }
        match self.durations.iter_mut().find(|one| one.handler == served.handler && one.method == served.method) {
            Some(one) => one.seconds.observe(seconds),
            None => {
                let mut histogram = Histogram::new(HANDLER_SECONDS);
                histogram.observe(seconds);
                self.durations.push(DurationCount {
                    handler: served.handler,
                    method: served.method.to_owned(),
                    seconds: histogram,
                    created: served.now,
                });
            }
        }
    }
}
