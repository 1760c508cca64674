"""What the gateway counts, in Prometheus' format. Labels are agents and versions, never anything a caller wrote."""

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from grokora_pipeline.serving.gateway.champions import Champions
from grokora_pipeline.serving.gateway.recorder import Recorder

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_GAUGES = {"running", "waiting", "cache_bytes"}


class Metrics(Collector):
    """Counters of the HTTP side; the engine's, the recorder's and the rollouts' are read when asked for.

    `generate_latest` of `registry` is the exposition text.
    """

    def __init__(self, champions: Champions, recorder: Recorder) -> None:
        self._champions, self._recorder = champions, recorder
        self.registry = registry = CollectorRegistry()
        registry.register(self)
        who = ("agent", "served_by")
        self.requests = Counter("grokora_requests", "Chat completions answered.", (*who, "status"), registry=registry)
        self.seconds = Histogram(
            "grokora_request_seconds", "Time to the whole answer.", who, buckets=_SECONDS, registry=registry
        )
        self.faults = Counter(
            "grokora_invalid_answers", "Answers of no use to the caller.", (*who, "fault"), registry=registry
        )
        self.tokens = Counter("grokora_tokens", "Tokens that replies counted.", (*who, "kind"), registry=registry)
        self.repaired = Counter(
            "grokora_repaired_tool_calls", "Tool calls that were no valid JSON.", who, registry=registry
        )
        self.refused = Counter(
            "grokora_refused_requests", "Requests refused before an answer.", ("status",), registry=registry
        )

    def collect(self) -> Iterator[Metric]:
        """Figures of the engine, the recorder and the rollouts, as they are now."""
        if self._champions.engine is not None:
            for name, value in asdict(self._champions.engine.stats()).items():
                kind = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
                yield kind(f"grokora_engine_{name}", f"EngineStats.{name}", value=value)
        for name in ("written", "failed", "fsyncs"):
            help_text = f"Lines of recordings: {name}."
            yield CounterMetricFamily(f"grokora_recorder_{name}", help_text, value=self._recorder.counts[name])
        for name in ("changes", "refused", "rollout_promotions", "rollout_rollbacks"):
            help_text = f"Champions: {name.replace('_', ' ')}."
            yield CounterMetricFamily(f"grokora_champion_{name}", help_text, value=self._champions.counts[name])
        health = GaugeMetricFamily("grokora_rollout_health", "Healthy calls of a rollout.", labels=("agent", "version"))
        for agent, service in self._champions.table.items():
            if service.rollout:
                health.add_metric((agent, service.version), service.rollout.health())
        yield health
