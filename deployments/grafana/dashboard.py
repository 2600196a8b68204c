"""Write `i2v.json`, a Grafana dashboard of the door's metrics: `python -m deployments.grafana.dashboard`.

Change panels here, not in the JSON. Several doors report the same ledger, so those panels take the highest value.
"""

from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, BigValueGraphMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

FILE = Path(__file__).with_name("i2v.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
GREEN, RED = "green", "red"


class Value(NamedTuple):
    """One number; it is red from `red_from` on, or green from there on if `is_good`."""

    title: str
    description: str
    expr: str
    red_from: float
    unit: str = "short"
    is_good: bool = False


class Graph(NamedTuple):
    """Lines over time: a query by legend."""

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"


VALUES = [
    Value("Door", "1 if notifications become flow runs", "min(i2v_door_ready)", 1, is_good=True),
    Value("Workers online", "Of the pool that runs new images", "max(i2v_workers_online)", 1, is_good=True),
    Value("Unknown jobs", "Possibly charged; a person resolves them", "max(i2v_jobs_unknown)", 1),
    Value("Dead letters", "Notifications that cannot be processed", "max(i2v_dead_letters)", 1),
    Value(
        "Since reconcile",
        "It runs every 10 minutes",
        "time() - max(i2v_reconcile_last_run_timestamp_seconds)",
        30 * 60,
        "s",
    ),
    Value(
        "Budget used",
        "The highest share of a limit (I2V_DAILY_CAP_USD, I2V_LIMITS) that is spent or reserved",
        "max(i2v_limit_spent_usd / i2v_limit_usd)",
        0.8,
        "percentunit",
    ),
]
GRAPHS = [
    Graph("Spent today", "On this UTC day, or reserved", {"spent": "max(i2v_spent_today_usd)"}, "currencyUSD"),
    Graph(
        "Limits",
        "Spent or reserved share of each limit, by label and period",
        {"{{label}} {{period}}": "max by (label, period) (i2v_limit_spent_usd / i2v_limit_usd)"},
        "percentunit",
    ),
    Graph("Open jobs", "Jobs whose video is not stored yet", {"open": "max(i2v_jobs_open)"}),
    Graph(
        "Images and runs",
        "Per minute: images passed to flow runs, and the runs that they became",
        {
            "images": "sum(rate(i2v_door_images_total[5m])) * 60",
            "runs": "sum(rate(i2v_door_runs_created_total[5m])) * 60",
        },
    ),
    Graph(
        "Upload to flow run",
        "From the bucket's event to its flow run",
        {
            "median": "histogram_quantile(0.5, sum by (le) (rate(i2v_door_event_to_run_seconds_bucket[5m])))",
            "95 %": "histogram_quantile(0.95, sum by (le) (rate(i2v_door_event_to_run_seconds_bucket[5m])))",
        },
        "s",
    ),
    Graph(
        "Waiting",
        "Age of the oldest image without a run, and of the oldest run without a worker",
        {"image": "max(i2v_door_oldest_seconds)", "run": "max(i2v_late_run_seconds)"},
        "s",
    ),
    Graph(
        "Backlog",
        "Messages in the queue, and images that doors hold",
        {"queue": "max(i2v_queue_messages)", "doors": "sum(i2v_door_in_hand)"},
    ),
    Graph(
        "Notifications",
        "Per minute, by source, with duplicates and those that cannot be read",
        {
            "{{way}}": "sum by (way) (rate(i2v_door_received_total[5m])) * 60",
            "duplicates": "sum(rate(i2v_door_duplicates_total[5m])) * 60",
            "unreadable": "sum(rate(i2v_door_unreadable_total[5m])) * 60",
        },
    ),
    Graph(
        "Dropped events",
        "Per minute, by reason: events that need no video",
        {"{{reason}}": "sum by (reason) (rate(i2v_door_dropped_total[5m])) * 60"},
    ),
    Graph(
        "Callbacks",
        "The provider's callbacks per minute, by outcome",
        {"{{outcome}}": "sum by (outcome) (rate(i2v_door_callbacks_total[5m])) * 60"},
    ),
    Graph(
        "Age of these values",
        "How long ago a door last read the ledger, Prefect and SQS; gaps mean never",
        {
            "ledger": "max(i2v_ledger_age_seconds)",
            "prefect": "max(i2v_prefect_age_seconds)",
            "sqs": "max(i2v_sqs_age_seconds)",
        },
        "s",
    ),
]


def _value(value: Value) -> stat.Panel:
    below, above = (RED, GREEN) if value.is_good else (GREEN, RED)
    steps = [Threshold(color=below), Threshold(value=value.red_from, color=above)]
    return (
        stat.Panel()
        .title(value.title)
        .description(value.description)
        .datasource(SOURCE)
        .with_target(prometheus.Dataquery().expr(value.expr).ref_id("A").instant())
        .unit(value.unit)
        .no_value("none")
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND)
        .span(4)
        .height(4)
    )


def _graph(graph: Graph) -> timeseries.Panel:
    panel = timeseries.Panel().title(graph.title).description(graph.description).datasource(SOURCE)
    for number, (legend, expr) in enumerate(graph.queries.items()):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + number)).range()
        panel = panel.with_target(query)
    return panel.unit(graph.unit).min(0).span(12).height(7)


def build() -> str:
    """Return the dashboard as JSON."""
    board = (
        dashboard.Dashboard("i2v")
        .uid("i2v")
        .description(
            "Image to video: the door, the ledger and the workers. Written by deployments/grafana/dashboard.py"
        )
        .tags(["i2v"])
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-24h", "now")
        .refresh("1m")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    for value in VALUES:
        board = board.with_panel(_value(value))
    for graph in GRAPHS:
        board = board.with_panel(_graph(graph))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(build())
