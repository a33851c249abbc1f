//! Owns the server's metrics, under the names that gateways and autoscalers read (vLLM's, as the
//! Gateway API inference extension's model-server protocol lists them) plus errors by cause. It
//! must not block: the engine writes while scrapes read.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// Which model and why a request ended well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Finished {
    /// Name under which the model is offered.
    pub model_name: String,
    /// `stop` or `length`.
    pub finished_reason: &'static str,
}

/// Which model and why a request ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Caused {
    /// Name under which the model is offered.
    pub model_name: String,
    /// Stable word of the error.
    pub cause: &'static str,
}

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    model: String,
    /// Sequences in the queue.
    pub waiting: Gauge,
    /// Sequences running.
    pub running: Gauge,
    /// Share of cache blocks in use.
    pub cache_usage: Gauge<f64, AtomicU64>,
    /// Prompt tokens of sequences that left.
    pub prompt_tokens: Counter,
    /// Tokens generated.
    pub generation_tokens: Counter,
    /// Arrival to first token, seconds.
    pub first_token: Histogram,
    /// Between tokens of one sequence, seconds.
    pub inter_token: Histogram,
    /// Arrival to admission, seconds.
    pub queue_time: Histogram,
    /// Arrival to the end, seconds.
    pub latency: Histogram,
    /// Rows computed per step.
    pub iteration_tokens: Histogram,
    success: Family<Finished, Counter>,
    errors: Family<Caused, Counter>,
    aborted: Counter,
}

impl Metrics {
    /// Zeroed metrics of the model offered as `model` with weights `digest`.
    #[must_use]
    pub fn new(model: &str, digest: &str, block: usize, blocks: usize) -> Self {
        // vLLM's buckets.
        let seconds = [
            0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
            10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
        ];
        let duration = || Histogram::new(seconds);
        let this = Self {
            registry: Registry::default(),
            model: model.to_owned(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            cache_usage: Gauge::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            first_token: duration(),
            inter_token: duration(),
            queue_time: duration(),
            latency: duration(),
            iteration_tokens: Histogram::new([
                1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
            ]),
            success: Family::default(),
            errors: Family::default(),
            aborted: Counter::default(),
        };
        this.register(digest, block, blocks)
    }

    fn register(mut self, digest: &str, block: usize, blocks: usize) -> Self {
        let labels = [
            ("model_name".into(), self.model.clone().into()),
            ("engine".into(), "0".into()),
        ];
        let engine = self.registry.sub_registry_with_labels(labels.into_iter());
        engine.register(
            "vllm:num_requests_waiting",
            "Sequences in the queue",
            self.waiting.clone(),
        );
        engine.register(
            "vllm:num_requests_running",
            "Sequences running",
            self.running.clone(),
        );
        engine.register(
            "vllm:kv_cache_usage_perc",
            "Share of the key-value cache in use, 0 to 1",
            self.cache_usage.clone(),
        );
        engine.register(
            "vllm:gpu_cache_usage_perc",
            "Old name of kv_cache_usage_perc",
            self.cache_usage.clone(),
        );
        engine.register(
            "vllm:prompt_tokens",
            "Prompt tokens processed",
            self.prompt_tokens.clone(),
        );
        engine.register(
            "vllm:generation_tokens",
            "Tokens generated",
            self.generation_tokens.clone(),
        );
        engine.register(
            "vllm:time_to_first_token_seconds",
            "Arrival to first token",
            self.first_token.clone(),
        );
        engine.register(
            "vllm:inter_token_latency_seconds",
            "Between tokens of a sequence",
            self.inter_token.clone(),
        );
        engine.register(
            "vllm:time_per_output_token_seconds",
            "Old name of inter_token_latency_seconds",
            self.inter_token.clone(),
        );
        engine.register(
            "vllm:request_queue_time_seconds",
            "Arrival to admission",
            self.queue_time.clone(),
        );
        engine.register(
            "vllm:e2e_request_latency_seconds",
            "Arrival to the end",
            self.latency.clone(),
        );
        engine.register(
            "vllm:iteration_tokens_total",
            "Rows computed per step",
            self.iteration_tokens.clone(),
        );
        engine.register(
            "bessemer_requests_aborted",
            "Sequences whose client went away",
            self.aborted.clone(),
        );
        let cache = Info::new(vec![
            ("block_size", block.to_string()),
            ("num_gpu_blocks", blocks.to_string()),
        ]);
        engine.register("vllm:cache_config", "Key-value cache", cache);
        engine.register(
            "bessemer_model",
            "Weights being served",
            Info::new(vec![("digest", digest.to_owned())]),
        );
        self.registry.register(
            "vllm:request_success",
            "Sequences completed, by reason",
            self.success.clone(),
        );
        self.registry.register(
            "bessemer_request_errors",
            "Requests that failed, by cause",
            self.errors.clone(),
        );
        self
    }

    /// Counts a completed sequence.
    pub fn succeeded(&self, reason: &'static str) {
        self.success
            .get_or_create(&Finished {
                model_name: self.model.clone(),
                finished_reason: reason,
            })
            .inc();
    }

    /// Counts a failed request.
    pub fn failed(&self, cause: &'static str) {
        self.errors
            .get_or_create(&Caused {
                model_name: self.model.clone(),
                cause,
            })
            .inc();
    }

    /// Counts a sequence that nobody listens to any more.
    pub fn abandoned(&self) {
        self.aborted.inc();
    }

    /// The metrics in OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
