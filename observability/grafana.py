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
    """Rows and panels with their places: panels from left to right, and below when a line is full. A closed row holds its panels."""
    placed, y, number = [], 0, 0
    for row in dashboard.rows:
        number += 1
        heading = {"type": "row", "id": number, "title": row.title, "collapsed": row.is_closed(), "panels": [],
                   "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": ROW_HEIGHT}}
        placed.append(heading)
        y += ROW_HEIGHT
        x = tallest = 0
        top = y
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, top, tallest = 0, top + tallest, 0
            number += 1
            place = {"x": x, "y": top, "w": panel.width, "h": panel.height}
            (heading["panels"] if row.is_closed() else placed).append(panel_json(panel, number, place))
            x, tallest = x + panel.width, max(tallest, panel.height)
        if not row.is_closed():
            y = top + tallest
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
