//! The `/metrics` page, in the order and with the spelling of vLLM 0.32.0 behind Python's Prometheus client.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::config::MetricsDialect;
use crate::engine::stats::EngineStats;
use crate::engine::{Engine, Occupancy};
use crate::histogram::Histogram;
use crate::pod::{Mode, Pod, lock};

/// The content type vLLM sends.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=1.0.0; charset=utf-8";
/// Memory that the recorded server reported for its KV cache.
const KV_CACHE_BYTES: u64 = 1 << 30;
/// Names of the sleep states; a pod here is always awake.
const SLEEP_STATES: [(&str, f64); 3] = [("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)];

/// The whole page.
pub(crate) fn page(pod: &Pod) -> String {
    let mut out = String::with_capacity(72 * 1024);
    process_section(&mut out, pod);
    match pod.mode() {
        Mode::Frozen { page } => out.push_str(&page),
        Mode::Serving | Mode::Draining => {
            pod.pretend_steps();
            out.push_str(&engine_section(pod));
        }
    }
    http_section(&mut out, pod);
    out
}

/// The page of a pod that keeps no engine statistics.
pub(crate) fn without_engine(pod: &Pod) -> String {
    let mut out = String::new();
    process_section(&mut out, pod);
    http_section(&mut out, pod);
    out
}

/// Stops the pod's engines, with the figures that they have now.
pub(crate) fn freeze(pod: &Pod) {
    pod.freeze(engine_section(pod));
}

/// The `vllm:` families.
fn engine_section(pod: &Pod) -> String {
    let mut out = String::new();
    if pod.config.disable_log_stats {
        return out;
    }
    out.reserve(64 * 1024);
    let loads = pod.loads();
    let mut engines = Vec::new();
    pod.each_engine(|number, engine| {
        engines.push(EngineView {
            number: number.to_string(),
            load: loads.get(number).copied().unwrap_or_default(),
            stats: engine.stats().clone(),
            adapters: adapter_log(pod, engine),
        });
    });
    let mut writer = Writer {
        out: &mut out,
        model: pod.base_names.first().map_or("", String::as_str),
        created: pod.started_unix.as_secs_f64(),
        engines: &engines,
    };
    match pod.config.metrics_dialect {
        MetricsDialect::Current => current(&mut writer, pod),
        MetricsDialect::Legacy => legacy(&mut writer, pod),
    }
    out
}

struct EngineView {
    number: String,
    load: Occupancy,
    stats: EngineStats,
    adapters: Vec<(String, f64)>,
}

struct Writer<'a> {
    out: &'a mut String,
    model: &'a str,
    /// Seconds since 1970.
    created: f64,
    engines: &'a [EngineView],
}

fn adapter_log(pod: &Pod, engine: &Engine) -> Vec<(String, f64)> {
    engine.adapter_log().iter().map(|(names, at)| (names.clone(), (pod.started_unix + *at).as_secs_f64())).collect()
}

type Values<'a> = &'a dyn Fn(&EngineView) -> f64;
type Series<'a> = &'a dyn Fn(&EngineView) -> Vec<(&'static str, f64)>;
type Histograms<'a> = &'a dyn Fn(&EngineStats) -> &Histogram;

impl Writer<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {}", number(value));
    }

    /// The labels `engine` and `model_name` with one more between or behind, in the client's alphabetical order.
    fn labels(&self, engine: &str, extra: Option<(&str, &str)>) -> String {
        let model = escape(self.model);
        match extra {
            None => format!("engine=\"{engine}\",model_name=\"{model}\""),
            Some((name, value)) if name < "model_name" => {
                format!("engine=\"{engine}\",{name}=\"{value}\",model_name=\"{model}\"")
            }
            Some((name, value)) => {
                format!("engine=\"{engine}\",model_name=\"{model}\",{name}=\"{value}\"")
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: Values<'_>) {
        self.head(name, "gauge", help);
        for engine in self.engines {
            let labels = self.labels(&engine.number, None);
            self.line(name, &labels, value(engine));
        }
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, series: Series<'_>) {
        self.head(name, "gauge", help);
        for engine in self.engines {
            for (value, figure) in series(engine) {
                let labels = self.labels(&engine.number, Some((label, value)));
                self.line(name, &labels, figure);
            }
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: Values<'_>) {
        let total = format!("{name}_total");
        self.head(&total, "counter", help);
        for engine in self.engines {
            let labels = self.labels(&engine.number, None);
            self.line(&total, &labels, value(engine));
        }
        let created = format!("{name}_created");
        let at = self.created;
        self.gauge(&created, help, &|_| at);
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, series: Series<'_>) {
        let total = format!("{name}_total");
        self.head(&total, "counter", help);
        for engine in self.engines {
            for (value, figure) in series(engine) {
                let labels = self.labels(&engine.number, Some((label, value)));
                self.line(&total, &labels, figure);
            }
        }
        let created = format!("{name}_created");
        let at = self.created;
        self.gauges(&created, help, label, &|engine| {
            series(engine).into_iter().map(|(value, _)| (value, at)).collect()
        });
    }

    fn histogram(&mut self, name: &str, help: &str, pick: Histograms<'_>) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for engine in self.engines {
            let histogram = pick(&engine.stats);
            for (bound, count) in histogram.buckets() {
                let labels = self.labels(&engine.number, Some(("le", &number(bound))));
                self.line(&bucket, &labels, count as f64);
            }
            let labels = self.labels(&engine.number, Some(("le", "+Inf")));
            self.line(&bucket, &labels, histogram.count() as f64);
            let labels = self.labels(&engine.number, None);
            self.line(&format!("{name}_count"), &labels, histogram.count() as f64);
            self.line(&format!("{name}_sum"), &labels, histogram.sum());
        }
        let created = format!("{name}_created");
        let at = self.created;
        self.gauge(&created, help, &|_| at);
    }
}

fn current(w: &mut Writer<'_>, pod: &Pod) {
    w.counter(
        "vllm:estimated_flops_per_gpu",
        "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).",
        &|_| 0.0,
    );
    w.counter(
        "vllm:estimated_read_bytes_per_gpu",
        "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).",
        &|_| 0.0,
    );
    w.counter(
        "vllm:estimated_write_bytes_per_gpu",
        "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).",
        &|_| 0.0,
    );
    queues(w);
    w.gauges("vllm:num_requests_waiting_by_reason", "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.", "reason", &|e| {
            let capacity = e.load.waiting.saturating_sub(e.load.deferred);
            vec![("capacity", capacity as f64), ("deferred", e.load.deferred as f64)]
        });
    w.gauges("vllm:engine_sleep_state", "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.", "sleep_state", &|_| SLEEP_STATES.to_vec());
    w.gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", &|e| e.load.kv_cache_usage);
    w.counter("vllm:prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", &|e| {
        e.stats.prefix_cache_queries as f64
    });
    w.counter("vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", &|e| {
        e.stats.prefix_cache_hits as f64
    });
    w.counter("vllm:external_prefix_cache_queries", "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.", &|_| 0.0);
    w.counter("vllm:external_prefix_cache_hits", "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.", &|_| 0.0);
    w.counter("vllm:mm_cache_queries", "Multi-modal cache queries, in terms of number of queried items.", &|_| 0.0);
    w.counter("vllm:mm_cache_hits", "Multi-modal cache hits, in terms of number of cached items.", &|_| 0.0);
    w.counter("vllm:num_preemptions", "Cumulative number of preemption from the engine.", &|e| {
        e.stats.preemptions as f64
    });
    w.counter("vllm:prompt_tokens", "Number of prefill tokens processed.", &|e| e.stats.prompt_tokens as f64);
    w.counters("vllm:prompt_tokens_by_source", "Number of prompt tokens by source.", "source", &|e| {
        let cached = e.stats.prompt_tokens_cached;
        vec![
            ("local_compute", (e.stats.prompt_tokens - cached) as f64),
            ("local_cache_hit", cached as f64),
            ("external_kv_transfer", 0.0),
        ]
    });
    w.counter("vllm:prompt_tokens_cached", "Number of cached prompt tokens (local + external).", &|e| {
        e.stats.prompt_tokens_cached as f64
    });
    w.counters("vllm:prompt_tokens_cached_by_source", "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.", "source", &|e| {
            vec![
                ("device", e.stats.prefix_cache_hits as f64),
                ("host", 0.0),
                ("p2p", 0.0),
                ("disk", 0.0),
                ("external_unspecified", 0.0),
            ]
        });
    w.counter("vllm:generation_tokens", "Number of generation tokens processed.", &|e| {
        e.stats.generation_tokens as f64
    });
    w.counters("vllm:request_success", "Count of successfully processed requests.", "finished_reason", &|e| {
        vec![
            ("stop", e.stats.finished_stop as f64),
            ("length", e.stats.finished_length as f64),
            ("abort", e.stats.finished_abort as f64),
            ("error", 0.0),
            ("repetition", 0.0),
        ]
    });
    admission_rejections(w, pod);
    sizes(w);
    w.histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &|s| {
        &s.inter_token_latency
    });
    w.histogram(
        "vllm:request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        &|s| &s.request_time_per_output_token,
    );
    times(w);
    w.histogram("vllm:request_num_preemptions", "Histogram of the number of times a request was preempted.", &|s| {
        &s.request_num_preemptions
    });
    w.histogram(
        "vllm:request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        &|s| &s.request_prefill_kv_computed_tokens,
    );
    lora_info(w, pod);
    cache_config(w, pod);
}

fn legacy(w: &mut Writer<'_>, pod: &Pod) {
    queues(w);
    w.gauge("vllm:gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", &|e| e.load.kv_cache_usage);
    w.counter(
        "vllm:gpu_prefix_cache_queries",
        "GPU prefix cache queries, in terms of number of queried tokens.",
        &|e| e.stats.prefix_cache_queries as f64,
    );
    w.counter("vllm:gpu_prefix_cache_hits", "GPU prefix cache hits, in terms of number of cached tokens.", &|e| {
        e.stats.prefix_cache_hits as f64
    });
    w.counter("vllm:num_preemptions", "Cumulative number of preemption from the engine.", &|e| {
        e.stats.preemptions as f64
    });
    w.counter("vllm:prompt_tokens", "Number of prefill tokens processed.", &|e| e.stats.prompt_tokens as f64);
    w.counter("vllm:generation_tokens", "Number of generation tokens processed.", &|e| {
        e.stats.generation_tokens as f64
    });
    w.counters("vllm:request_success", "Count of successfully processed requests.", "finished_reason", &|e| {
        vec![
            ("stop", e.stats.finished_stop as f64),
            ("length", e.stats.finished_length as f64),
            ("abort", e.stats.finished_abort as f64),
        ]
    });
    sizes(w);
    w.histogram("vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds.", &|s| {
        &s.inter_token_latency
    });
    times(w);
    lora_info(w, pod);
    cache_config(w, pod);
}

/// What runs and what waits, in every version.
fn queues(w: &mut Writer<'_>) {
    w.gauge("vllm:num_requests_running", "Number of requests in model execution batches.", &|e| e.load.running as f64);
    w.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", &|e| e.load.waiting as f64);
}

/// Requests by size, in every version.
fn sizes(w: &mut Writer<'_>) {
    w.histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", &|s| &s.request_prompt_tokens);
    w.histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", &|s| {
        &s.request_generation_tokens
    });
    w.histogram("vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", &|s| {
        &s.iteration_tokens
    });
    w.histogram(
        "vllm:request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        &|s| &s.request_max_num_generation_tokens,
    );
    w.histogram("vllm:request_params_n", "Histogram of the n request parameter.", &|s| &s.request_params_n);
    w.histogram("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", &|s| {
        &s.request_params_max_tokens
    });
    w.histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", &|s| {
        &s.time_to_first_token
    });
}

/// Requests by the time they took, in every version.
fn times(w: &mut Writer<'_>) {
    w.histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &|s| {
        &s.e2e_request_latency
    });
    w.histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", &|s| {
        &s.request_queue_time
    });
    w.histogram("vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", &|s| {
        &s.request_inference_time
    });
    w.histogram("vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", &|s| {
        &s.request_prefill_time
    });
    w.histogram("vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", &|s| {
        &s.request_decode_time
    });
}

fn admission_rejections(w: &mut Writer<'_>, pod: &Pod) {
    const HELP: &str = "Number of admission attempts rejected by a queue limit, by reason.";
    let rejected = pod.rejected.load(Ordering::Relaxed) as f64;
    let model = escape(w.model);
    let at = w.created;
    for (name, kind, requests, tokens) in [
        ("vllm:admission_rejections_total", "counter", rejected, 0.0),
        ("vllm:admission_rejections_created", "gauge", at, at),
    ] {
        w.head(name, kind, HELP);
        for (reason, value) in [("max_num_queued_reqs", requests), ("max_num_queued_tokens", tokens)] {
            let labels = format!("model_name=\"{model}\",reason=\"{reason}\"");
            w.line(name, &labels, value);
        }
    }
}

/// vLLM never removes a series here: the newest value tells which one holds. Both lists name every adapter that has a request.
fn lora_info(w: &mut Writer<'_>, pod: &Pod) {
    const NAME: &str = "vllm:lora_requests_info";
    let slots = pod.config.lora_slots();
    let pinned = pod.pinned().and_then(|pinned| pinned.lora_adapters);
    if slots == 0 && pinned.is_none() {
        return;
    }
    w.head(NAME, "gauge", "Running stats on lora requests.");
    let mut series: Vec<(String, f64)> = Vec::new();
    for (names, at) in w.engines.iter().flat_map(|engine| &engine.adapters) {
        match series.iter_mut().find(|(known, _)| known == names) {
            Some((_, newest)) => *newest = newest.max(*at),
            None => series.push((names.clone(), *at)),
        }
    }
    if let Some(adapters) = pinned {
        let names = adapters.join(",");
        let now = (pod.started_unix + pod.now()).as_secs_f64();
        series.retain(|(known, _)| *known != names);
        series.push((names, now));
    }
    for (names, at) in series {
        let names = escape(&names);
        let labels =
            format!("max_lora=\"{slots}\",running_lora_adapters=\"{names}\",waiting_lora_adapters=\"{names}\"");
        w.line(NAME, &labels, at);
    }
}

fn cache_config(w: &mut Writer<'_>, pod: &Pod) {
    const NAME: &str = "vllm:cache_config_info";
    w.head(NAME, "gauge", "Information of the LLMEngine CacheConfig");
    let config = &pod.config;
    let block_size = config.block_size;
    let blocks = config.num_gpu_blocks;
    let tokens = blocks as u64 * u64::from(block_size);
    let concurrency = number(tokens as f64 / f64::from(config.context().max(1)));
    let prefix_caching = python_bool(!config.no_enable_prefix_caching);
    let user_block_size = python_bool(block_size != crate::config::BLOCK_SIZE);
    for engine in w.engines {
        let engine = &engine.number;
        let labels = format!(
            "_block_size_resolved=\"True\",\
             block_size=\"{block_size}\",\
             cache_dtype=\"auto\",\
             cache_hit_alignment_tokens=\"None\",\
             effective_attention_block_size=\"{block_size}\",\
             enable_mamba_shared_prefix_checkpoint=\"False\",\
             enable_prefix_caching=\"{prefix_caching}\",\
             engine=\"{engine}\",\
             gpu_memory_utilization=\"0.92\",\
             hash_block_size=\"None\",\
             is_attention_free=\"False\",\
             kv_cache_dtype_skip_layers=\"[]\",\
             kv_cache_layout=\"None\",\
             kv_cache_max_concurrency=\"{concurrency}\",\
             kv_cache_memory_bytes=\"{KV_CACHE_BYTES}\",\
             kv_cache_size_tokens=\"{tokens}\",\
             kv_offloading_backend=\"native\",\
             kv_offloading_size=\"None\",\
             kv_sharing_fast_prefill=\"False\",\
             mamba_block_size=\"None\",\
             mamba_cache_dtype=\"auto\",\
             mamba_cache_mode=\"none\",\
             mamba_page_size_padded=\"None\",\
             mamba_ssm_cache_dtype=\"auto\",\
             num_cpu_blocks=\"None\",\
             num_gpu_blocks=\"{blocks}\",\
             num_gpu_blocks_override=\"None\",\
             prefix_cache_retention_interval=\"0\",\
             prefix_caching_hash_algo=\"sha256\",\
             prefix_match_unit=\"None\",\
             replayssm_buffer_len=\"16\",\
             skip_page_size_padded=\"None\",\
             sliding_window=\"None\",\
             swa_bounded_replay=\"True\",\
             use_kda_recoverssm=\"False\",\
             use_replayssm=\"False\",\
             user_specified_block_size=\"{user_block_size}\""
        );
        w.line(NAME, &labels, 1.0);
    }
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Python's collector of itself, with this process's own figures where Linux tells them.
fn process_section(out: &mut String, pod: &Pod) {
    let uptime = pod.now().as_secs_f64();
    let mut head = |name: &str, kind: &str, help: &str, series: &[(&str, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(out, "{name}{labels} {}", number(*value));
        }
    };
    // A collector runs about every 700 allocations; a rate a second is near enough for a figure nobody alerts on.
    let collections = uptime.floor();
    head(
        "python_gc_objects_collected_total",
        "counter",
        "Objects collected during gc",
        &[
            ("{generation=\"0\"}", collections * 8.0),
            ("{generation=\"1\"}", (collections / 10.0).floor() * 16.0),
            ("{generation=\"2\"}", (collections / 100.0).floor() * 32.0),
        ],
    );
    head(
        "python_gc_objects_uncollectable_total",
        "counter",
        "Uncollectable objects found during GC",
        &[("{generation=\"0\"}", 0.0), ("{generation=\"1\"}", 0.0), ("{generation=\"2\"}", 0.0)],
    );
    head(
        "python_gc_collections_total",
        "counter",
        "Number of times this generation was collected",
        &[
            ("{generation=\"0\"}", collections),
            ("{generation=\"1\"}", (collections / 10.0).floor()),
            ("{generation=\"2\"}", (collections / 100.0).floor()),
        ],
    );
    head(
        "python_info",
        "gauge",
        "Python platform information",
        &[("{implementation=\"CPython\",major=\"3\",minor=\"11\",patchlevel=\"7\",version=\"3.11.7\"}", 1.0)],
    );
    let process = crate::process::Process::read();
    head("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", &[("", process.virtual_bytes)]);
    head("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", &[("", process.resident_bytes)]);
    head(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        &[("", pod.started_unix.as_secs_f64())],
    );
    head(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        &[("", process.cpu_seconds)],
    );
    head("process_open_fds", "gauge", "Number of open file descriptors.", &[("", process.open_fds)]);
    head("process_max_fds", "gauge", "Maximum number of open file descriptors.", &[("", process.max_fds)]);
}

fn http_section(out: &mut String, pod: &Pod) {
    const REQUESTS: &str = "Total number of requests by method, status and handler.";
    const REQUEST_SIZE: &str = "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ";
    const RESPONSE_SIZE: &str = "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ";
    const HIGHR: &str =
        "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ";
    const DURATION: &str =
        "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ";
    let stats = lock(&pod.http).clone();
    let used = !stats.requests.is_empty();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    head(out, "http_requests_total", "counter", REQUESTS);
    let request_labels = |one: &crate::http_stats::RequestCount| {
        format!("handler=\"{}\",method=\"{}\",status=\"{}\"", one.handler, escape(&one.method), one.status)
    };
    for one in &stats.requests {
        let _ = writeln!(out, "http_requests_total{{{}}} {}", request_labels(one), number(one.count as f64));
    }
    if used {
        head(out, "http_requests_created", "gauge", REQUESTS);
        for one in &stats.requests {
            let _ = writeln!(out, "http_requests_created{{{}}} {}", request_labels(one), number(one.created));
        }
    }
    for (name, help, bytes) in
        [("http_request_size_bytes", REQUEST_SIZE, true), ("http_response_size_bytes", RESPONSE_SIZE, false)]
    {
        head(out, name, "summary", help);
        for one in &stats.sizes {
            let sum = if bytes { one.request_bytes } else { one.response_bytes };
            let handler = one.handler;
            let _ = writeln!(out, "{name}_count{{handler=\"{handler}\"}} {}", number(one.count as f64));
            let _ = writeln!(out, "{name}_sum{{handler=\"{handler}\"}} {}", number(sum as f64));
        }
        if used {
            head(out, &format!("{name}_created"), "gauge", help);
            for one in &stats.sizes {
                let _ = writeln!(out, "{name}_created{{handler=\"{}\"}} {}", one.handler, number(one.created));
            }
        }
    }
    const HIGHR_NAME: &str = "http_request_duration_highr_seconds";
    head(out, HIGHR_NAME, "histogram", HIGHR);
    plain_histogram(out, HIGHR_NAME, "", "", &stats.highr);
    head(out, "http_request_duration_highr_seconds_created", "gauge", HIGHR);
    let started = number(pod.started_unix.as_secs_f64());
    let _ = writeln!(out, "http_request_duration_highr_seconds_created {started}");
    const DURATION_NAME: &str = "http_request_duration_seconds";
    head(out, DURATION_NAME, "histogram", DURATION);
    for one in &stats.durations {
        let before = format!("handler=\"{}\"", one.handler);
        let after = format!("method=\"{}\"", escape(&one.method));
        plain_histogram(out, DURATION_NAME, &before, &after, &one.seconds);
    }
    if used {
        head(out, "http_request_duration_seconds_created", "gauge", DURATION);
        for one in &stats.durations {
            let _ = writeln!(
                out,
                "http_request_duration_seconds_created{{handler=\"{}\",method=\"{}\"}} {}",
                one.handler,
                escape(&one.method),
                number(one.created)
            );
        }
    }
}

fn plain_histogram(out: &mut String, name: &str, before: &str, after: &str, histogram: &Histogram) {
    let join = |parts: &[&str]| {
        let labels: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
    };
    for (bound, count) in histogram.buckets() {
        let le = format!("le=\"{}\"", number(bound));
        let _ = writeln!(out, "{name}_bucket{} {}", join(&[before, &le, after]), number(count as f64));
    }
    let total = number(histogram.count() as f64);
    let _ = writeln!(out, "{name}_bucket{} {total}", join(&[before, "le=\"+Inf\"", after]));
    let _ = writeln!(out, "{name}_count{} {total}", join(&[before, after]));
    let _ = writeln!(out, "{name}_sum{} {}", join(&[before, after]), number(histogram.sum()));
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number as Python's client prints it: `repr` of a float, but with an exponent from a million on, a zero always before it.
fn number(value: f64) -> String {
    if value > 0.0 && value < 1e-4 {
        let text = format!("{value:e}");
        return match text.split_once("e-") {
            Some((mantissa, exponent)) if exponent.len() == 1 => format!("{mantissa}e-0{exponent}"),
            _ => text,
        };
    }
    let text = format!("{value:?}");
    match text.split_once('.') {
        Some((whole, part)) if whole.len() > 6 && value > 0.0 && !text.contains('e') => {
            let digits = format!("{whole}{part}");
            let (first, rest) = digits.split_at(1);
            let rest = rest.trim_end_matches('0');
            let point = if rest.is_empty() { "" } else { "." };
            format!("{first}{point}{rest}e+0{}", whole.len() - 1)
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_pythons_client_prints_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (588.0, "588.0"),
            (0.0004577776421399449, "0.0004577776421399449"),
            (0.00005, "5e-05"),
            (123_456.0, "123456.0"),
            (4_819_771_392.0, "4.819771392e+09"),
            (1_795_320_103.136_695_4, "1.7953201031366954e+09"),
            (1_000_000.0, "1e+06"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
