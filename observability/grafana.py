"""Grafana's JSON of a dashboard."""

import json

# Of Grafana 11.6; newer ones read it and add what is new to them.
SCHEMA = 41
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
ROW_HEIGHT = 1


def dashboard_json(dashboard):
    """The text of a dashboard's file."""
    tree = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["inpick"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [link()],
        "annotations": {"list": []},
        "templating": {"list": [datasource(), *map(variable, dashboard.variables)]},
        "panels": laid_out(dashboard),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def link():
    """A menu of inpick's dashboards."""
    return {
        "type": "dashboards", "title": "inpick", "tags": ["inpick"], "icon": "", "tooltip": "", "url": "",
        "asDropdown": True, "includeVars": False, "keepTime": True, "targetBlank": False,
    }


def datasource():
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1, "regex": "", "hide": 0}


def variable(source):
    metric, label = source.metric.rsplit(":", 1)
    query = f"label_values({metric}, {label})"
    return {
        "type": "query", "name": source.name, "label": source.label, "datasource": DATASOURCE,
        "query": {"query": query, "refId": "values"},
        # With the time range, sorted, all at first.
        "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "regex": "", "hide": 0,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def laid_out(dashboard):
    """Rows and panels with their places: panels from left to right, and below when a line is full."""
    placed, y = [], 0
    for row in dashboard.rows:
        placed.append({"type": "row", "id": len(placed) + 1, "title": row.title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": ROW_HEIGHT}})
        y += ROW_HEIGHT
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append(panel_json(panel, len(placed) + 1, place))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def panel_json(panel, number, place):
    is_stat = panel.kind == "stat"
    custom = {} if is_stat else {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if panel.stacked else 10, "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "value",
    } if is_stat else {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend,
             "editorMode": "code", "range": True, "instant": False}
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **({} if panel.signed else {"min": 0}),
                "color": {"mode": "palette-classic"},
                "custom": custom,
            },
            "overrides": [],
        },
        "options": options,
    }
