//! Metrics of the process in the Prometheus text format, named by its conventions
//! (<https://prometheus.io/docs/practices/naming/>). Events are counted when they happen; gauges of state are computed
//! at each scrape. Label values are routes, codes, causes and cluster ids only, never values that a caller can choose.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use pilothouse_core::{
    Cause, Code, clock::Clock, cluster::Health, coordinator::Coordinator, gate::Gate, ids::ClusterId,
    monitor::StoreMonitor,
};
use pilothouse_http::{ProcessMetrics, RequestOutcome};
use pilothouse_kube::{Exchange, KubeClusters, ListCacheStats};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::{Collector, MetricVec, MetricVecBuilder},
    process_collector::ProcessCollector,
};

use crate::webhook::RECEIVER;

/// Upper bounds of the histogram buckets in seconds, from a response from the cache to the longest deadline.
const DURATION_BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
/// Route of the login, whose responses are also counted by outcome.
const LOGIN_ROUTE: &str = "/api/auth/login";

/// Metrics that are updated by events.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGauge,
    streams: IntGauge,
    logins: IntCounterVec,
    cluster_requests: IntCounterVec,
    cluster_durations: HistogramVec,
    cluster_refusals: IntCounterVec,
    /// Deliveries to the audit webhook that failed.
    pub(crate) webhook_failures: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self())).expect("unique metric names");
        let build = gauges("pilothouse_build_info", "The running version; always 1.", &["version"]);
        add(&registry, build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let logins = add(
            &registry,
            counters(
                "pilothouse_logins_total",
                "Logins: success, refused (name or password), throttled.",
                &["outcome"],
            ),
        );
        for outcome in ["success", "refused", "throttled"] {
            logins.with_label_values(&[outcome]);
        }
        let cluster_refusals = add(
            &registry,
            counters(
                "pilothouse_cluster_refusals_total",
                "Requests to clusters that were not sent: the circuit is open, or too many are in flight.",
                &["cluster", "cause"],
            ),
        );
        for cause in [Cause::CircuitOpen, Cause::Overloaded] {
            cluster_refusals.with_label_values(&["", cause.as_str()]);
        }
        Arc::new(Self {
            requests: add(
                &registry,
                counters(
                    "pilothouse_http_requests_total",
                    "Completed requests. Without a route: unknown paths. Status 0: the client disconnected first.",
                    &["method", "route", "status", "error_code"],
                ),
            ),
            durations: add(
                &registry,
                histograms(
                    "pilothouse_http_request_duration_seconds",
                    "Seconds from the head of a request to the head of its response.",
                    &["method", "route"],
                ),
            ),
            in_flight: add(
                &registry,
                IntGauge::new("pilothouse_http_requests_in_flight", "Requests without a response yet."),
            ),
            streams: add(&registry, IntGauge::new("pilothouse_http_streams", "Open streaming responses.")),
            logins,
            cluster_requests: add(
                &registry,
                counters(
                    "pilothouse_cluster_requests_total",
                    "Requests to clusters, by cluster id (empty: not stored yet) and outcome.",
                    &["cluster", "outcome"],
                ),
            ),
            cluster_durations: add(
                &registry,
                histograms(
                    "pilothouse_cluster_request_duration_seconds",
                    "Seconds from a request to a cluster to the end of its response.",
                    &["cluster"],
                ),
            ),
            cluster_refusals,
            webhook_failures: add(
                &registry,
                IntCounter::new(
                    "pilothouse_audit_webhook_failures_total",
                    "Failed deliveries to the audit webhook, of this process.",
                ),
            ),
            registry,
        })
    }

    /// Removes the series of clusters that are not in `present`. Cluster ids are never reused.
    fn retain_clusters(&self, present: &[(ClusterId, Health)]) {
        let present = present.iter().map(|(id, _)| id.to_string()).collect();
        retain_clusters(&self.cluster_requests, &present);
        retain_clusters(&self.cluster_durations, &present);
        retain_clusters(&self.cluster_refusals, &present);
    }
}

fn retain_clusters<B: MetricVecBuilder>(family: &MetricVec<B>, present: &BTreeSet<String>) {
    for metric in family.collect().iter().flat_map(prometheus::proto::MetricFamily::get_metric) {
        let labels: HashMap<&str, &str> =
            metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
        let cluster = labels.get("cluster").copied().unwrap_or_default();
        if !cluster.is_empty() && !present.contains(cluster) {
            // a concurrent scrape may have removed the series
            let _ = family.remove(&labels);
        }
    }
}

impl pilothouse_http::Observer for Metrics {
    fn started(&self) {
        self.in_flight.inc();
    }

    fn finished(&self, request: &RequestOutcome<'_>) {
        self.in_flight.dec();
        let (status, code) = request.response.unwrap_or_default();
        let route = request.route.unwrap_or_default();
        let error_code = code.map_or("", Code::as_str);
        self.requests.with_label_values(&[request.method, route, &status.to_string(), error_code]).inc();
        self.durations.with_label_values(&[request.method, route]).observe(request.took.as_secs_f64());
        if route == LOGIN_ROUTE {
            let outcome = match code {
                None if status == 200 => "success",
                Some(Code::AuthenticationError) => "refused",
                Some(Code::RateLimited) => "throttled",
                _ => return,
            };
            self.logins.with_label_values(&[outcome]).inc();
        }
    }

    fn stream_opened(&self) {
        self.streams.inc();
    }

    fn stream_closed(&self) {
        self.streams.dec();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl pilothouse_kube::Observer for Metrics {
    fn exchanged(&self, exchange: &Exchange) {
        let cluster = exchange.cluster.map(|id| id.to_string()).unwrap_or_default();
        let outcome = exchange.cause.map_or("success", |cause| cause.as_str());
        self.cluster_requests.with_label_values(&[cluster.as_str(), outcome]).inc();
        self.cluster_durations.with_label_values(&[cluster.as_str()]).observe(exchange.took.as_secs_f64());
    }

    fn refused(&self, cluster: Option<ClusterId>, cause: Cause) {
        let cluster = cluster.map(|id| id.to_string()).unwrap_or_default();
        self.cluster_refusals.with_label_values(&[cluster.as_str(), cause.as_str()]).inc();
    }
}

/// Source of the `/metrics` endpoint: metrics updated by events, and gauges of the current state.
pub(crate) struct Scrape {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) monitor: Arc<dyn StoreMonitor>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) gate: Gate,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lists: KubeClusters,
    /// Whether an audit webhook is configured.
    pub(crate) webhook: bool,
}

#[async_trait]
impl ProcessMetrics for Scrape {
    async fn text(&self) -> String {
        let current = self.current_values().await;
        let mut families = self.metrics.registry.gather();
        families.extend(current.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot encode the metrics");
            String::new()
        })
    }
}

impl Scrape {
    /// Gauges of the current state. Gauges that need the database are omitted while the database does not respond.
    async fn current_values(&self) -> Registry {
        let now = Registry::new();
        let add_gauge = |name, help, value| add(&now, IntGauge::new(name, help)).set(value);
        add_gauge(
            "pilothouse_audit_unsettled_outcomes",
            "Outcomes of changes that could not be stored yet; while there are any, changes are refused.",
            saturating_i64(self.gate.pending_outcomes()),
        );
        add_gauge(
            "pilothouse_audit_room",
            "Whether there is free disk space for new operations; 0: changes and logins are refused.",
            i64::from(self.gate.has_capacity()),
        );
        add_gauge(
            "pilothouse_audit_signed",
            "Whether the trail matches the history that this process verified; 0: it is no longer signed.",
            i64::from(self.monitor.is_audit_signed()),
        );
        let failed = IntCounter::new(
            "pilothouse_audit_write_failures_total",
            "Audit trail entries that this process failed to store; each failed retry counts.",
        );
        add(&now, failed).inc_by(self.monitor.failed_audit_entries());
        self.add_pool_gauges(&now);
        self.add_list_cache_gauges(&now);

        let stats = self.monitor.stats(self.clock.now()).await;
        let up = i64::from(stats.is_ok());
        add_gauge("pilothouse_database_up", "Whether the database responds.", up);
        let Ok(stats) = stats else { return now };
        self.metrics.retain_clusters(&stats.clusters);
        add_gauge(
            "pilothouse_sessions",
            "Sessions that have not expired, across all replicas.",
            saturating_i64(stats.sessions),
        );
        add_gauge(
            "pilothouse_audit_sequence",
            "The number of the newest entry of the audit chain.",
            saturating_i64(stats.audit_sequence),
        );
        add_gauge(
            "pilothouse_audit_unsigned_seconds",
            "Seconds since the last checkpoint known to this process was signed; 0 when it covers every entry.",
            saturating_i64(stats.audit_unsigned.as_secs()),
        );
        let (delivered, lag) = match self.coordinator.cursor(RECEIVER).await {
            Ok(cursor) if self.webhook => {
                (cursor.sequence, saturating_i64(stats.audit_sequence).saturating_sub(cursor.sequence))
            }
            _ => (0, 0),
        };
        add_gauge(
            "pilothouse_audit_webhook_sequence",
            "The number of the newest entry that the audit webhook accepted; 0 without a webhook.",
            delivered,
        );
        add_gauge(
            "pilothouse_audit_webhook_lag",
            "Entries that the audit webhook has not accepted yet; 0 without a webhook.",
            lag.max(0),
        );
        let clusters = gauges(
            "pilothouse_cluster_up",
            "Whether the last probe reached the cluster, by cluster id; absent before the first probe.",
            &["cluster"],
        );
        let clusters = add(&now, clusters);
        for (id, health) in stats.clusters.iter().filter(|(_, health)| *health != Health::Unknown) {
            clusters.with_label_values(&[id.to_string()]).set(i64::from(*health == Health::Online));
        }
        now
    }

    fn add_list_cache_gauges(&self, now: &Registry) {
        let lists = self.lists.list_cache_stats();
        for (name, help, value) in LIST_CACHE_METRICS {
            let family = add(now, gauges(name, help, &["list"]));
            for of in &lists {
                family.with_label_values(&[of.list]).set(value(of));
            }
        }
    }

    fn add_pool_gauges(&self, now: &Registry) {
        let gauges = |name, help, labels| add(now, gauges(name, help, labels));
        let connections = gauges(
            "pilothouse_database_connections",
            "Connections to the database, by pool and state.",
            &["pool", "state"],
        );
        let max =
            gauges("pilothouse_database_connections_max", "The maximum connections of a pool.", &["pool"]);
        let waiting = gauges(
            "pilothouse_database_connection_waiters",
            "Callers that wait for a connection of a pool.",
            &["pool"],
        );
        for pool in self.monitor.pools() {
            connections.with_label_values(&[pool.name, "idle"]).set(saturating_i64(pool.idle));
            let used = pool.open.saturating_sub(pool.idle);
            connections.with_label_values(&[pool.name, "used"]).set(saturating_i64(used));
            max.with_label_values(&[pool.name]).set(saturating_i64(pool.max));
            waiting.with_label_values(&[pool.name]).set(saturating_i64(pool.waiting));
        }
    }
}

type ListCacheMetric = (&'static str, &'static str, fn(&ListCacheStats) -> i64);

/// Metrics of the list cache: name, help text, value.
const LIST_CACHE_METRICS: [ListCacheMetric; 6] = [
    ("pilothouse_list_cache_lists", "Clusters with a cached list.", |of| saturating_i64(of.clusters)),
    ("pilothouse_list_cache_lists_stale", "Clusters with a cached list that may be out of date.", |of| {
        saturating_i64(of.stale)
    }),
    ("pilothouse_list_cache_rows", "Rows of cached lists.", |of| saturating_i64(of.rows)),
    ("pilothouse_list_cache_bytes", "Memory of cached lists, in bytes.", |of| saturating_i64(of.bytes)),
    ("pilothouse_list_cache_list_fills", "Full reads of the lists that are cached now.", |of| {
        saturating_i64(of.fills)
    }),
    (
        "pilothouse_list_cache_list_failures",
        "Failed synchronisations of the lists that are cached now.",
        |of| saturating_i64(of.failures),
    ),
];

fn saturating_i64(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn histograms(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec()), labels)
}

/// Registers a metric family.
fn add<F: Clone + Collector + 'static>(registry: &Registry, family: prometheus::Result<F>) -> F {
    let family = family.expect("valid names, labels and buckets");
    registry.register(Box::new(family.clone())).expect("unique metric names");
    family
}

#[cfg(test)]
mod tests;
