"""The words that a dashboard is described with."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Query:
    """PromQL, and the legend of its series: `{{label}}` stands for a label's value. `empty` is as in a panel."""

    expr: str
    legend: str
    empty: str = ""


@dataclass(frozen=True)
class Panel:
    """A title, Grafana's name of a unit, and queries.

    `kind` is `timeseries` or `stat`, which shows last values in large. `width` and `height` are in Grafana's grid of 24 columns.
    The axis begins at 0 unless values are `signed`.
    `empty` says why the panel rightly shows nothing in a rehearsal, `quiet` why nothing but zeros; a panel without them must show more there.
    """

    title: str
    unit: str
    queries: tuple
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    signed: bool = False
    description: str = ""
    empty: str = ""
    quiet: str = ""


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it, laid out from left to right; closed at first if all of them are empty."""

    title: str
    panels: tuple

    def is_closed(self):
        return all(panel.empty for panel in self.panels)


@dataclass(frozen=True)
class Variable:
    """A choice on top of the dashboard: the values of a label on a metric, all of them at first."""

    name: str
    label: str
    metric: str


@dataclass(frozen=True)
class Dashboard:
    """A file of dashboards/; `uid` names it there, and in links to it."""

    uid: str
    title: str
    description: str
    rows: tuple
    variables: tuple = field(default=())

    def panels(self):
        """Every panel, row by row."""
        return [panel for row in self.rows for panel in row.panels]


def panel(title, unit, *queries, **options):
    """A panel of (PromQL, legend) pairs; a third text is the query's `empty`."""
    return Panel(title, unit, tuple(Query(*query) for query in queries), **options)


def row(title, *panels):
    """A row of these panels."""
    return Row(title, panels)


def quantiles(bucket, shares, by=(), legend="", scale=""):
    """Pairs for a panel: quantiles of a histogram by some labels. `bucket` is the series with its matchers."""
    labels = ", ".join(("le", *by))
    return [
        (f"histogram_quantile({share}, sum by ({labels}) (rate({bucket}[$__rate_interval]))){scale}", f"P{share * 100:.0f}{legend}")
        for share in shares
    ]
