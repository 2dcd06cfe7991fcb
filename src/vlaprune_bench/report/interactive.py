"""Charts as plotly.js draws them in the page; the page adds the colours of ground and ink."""

from __future__ import annotations

from typing import Any

from vlaprune_bench.report.charts import Chart, Series
from vlaprune_bench.report.plots import COLOURS


def plotly(chart: Chart) -> dict[str, Any]:
    """Data and layout of one chart."""
    draw = {"heat": _heat, "boxes": _boxes, "steps": _steps}.get(chart.kind, _lines)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": chart.x_title}, "automargin": True},
        "yaxis": {"title": {"text": chart.y_title}, "automargin": True},
        "showlegend": len(chart.series) > 1,
        "height": max(420, 140 + 30 * len(chart.grid)),
    }
    if chart.kind == "heat":
        layout["yaxis"]["autorange"] = "reversed"
    if chart.kind == "boxes":
        layout["boxmode"] = "group"
    if chart.kind == "steps":
        layout["yaxis"] |= {"range": [0, 1.02], "tickvals": [0, 1]}
        if any(series.right for series in chart.series):
            title = {"title": {"text": chart.right_title}, "overlaying": "y", "side": "right"}
            how = {"rangemode": "tozero", "showgrid": False, "automargin": True, "tickmode": "auto"}
            layout["yaxis2"] = title | how
    if any(isinstance(x, str) for series in chart.series for x in series.x):
        layout["xaxis"]["type"] = "category"
    return {"data": draw(chart), "layout": layout}


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _lines(chart: Chart) -> list[dict[str, Any]]:
    traces = []
    for k, series in enumerate(chart.series):
        trace: dict[str, Any] = {"name": series.name, "x": series.x, "y": series.y}
        trace["mode"] = "markers" if chart.kind == "points" else "lines+markers"
        trace["marker"] = {"color": _colour(k), "size": 8 if series.low else 3}
        if series.dashed:
            trace |= {"mode": "lines", "line": {"dash": "dash", "color": "#888"}}
            trace["hoverinfo"] = "skip"
        elif series.low:
            trace["error_y"] = _error(series)
            ends = zip(series.low, series.high, strict=True)
            trace["customdata"] = [[low, high] for low, high in ends]
            trace["text"] = series.text
            trace["hovertemplate"] = (
                "%{text}<br>%{x:.4g}: %{y:.1f} [%{customdata[0]:.1f}, %{customdata[1]:.1f}]"
                "<extra></extra>"
            )
        traces.append(trace)
    return traces


def _error(series: Series) -> dict[str, Any]:
    above = [high - y for y, high in zip(series.y, series.high, strict=True)]
    below = [y - low for y, low in zip(series.y, series.low, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "width": 3}


def _steps(chart: Chart) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    for k, series in enumerate(chart.series):
        line = {"shape": "hv", "color": _colour(k), "width": 2 if series.right else 0}
        trace = {"name": series.name, "x": series.x, "y": series.y, "mode": "lines", "line": line}
        traces.append(trace | ({"yaxis": "y2"} if series.right else {"fill": "tozeroy"}))
    return traces


def _heat(chart: Chart) -> list[dict[str, Any]]:
    series = chart.series[0]
    names = [name.replace("\n", "<br>") for name in series.y]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": series.x,
        "y": names,
        "z": chart.grid,
        "zmin": 0,
    }
    trace |= {"zmax": 100, "colorscale": "Viridis", "texttemplate": "%{z:.0f}", "xgap": 1}
    trace |= {"hovertemplate": "%{y}<br>%{x}: %{z:.1f} %<extra></extra>", "ygap": 1}
    return [trace]


def _boxes(chart: Chart) -> list[dict[str, Any]]:
    traces = []
    for k, series in enumerate(chart.series):
        names = ("lowerfence", "q1", "median", "q3", "upperfence")
        columns = {name: [box[n] for box in series.boxes] for n, name in enumerate(names)}
        trace = {"type": "box", "name": series.name, "x": series.x, **columns}
        traces.append(trace | {"marker": {"color": _colour(k)}})
    return traces
