"""The values for the chart prometheus-community/prometheus, put together from the Prometheus files themselves."""

import re

HEAD = """\
# Values for the chart prometheus-community/prometheus, written by `make dashboards` from prometheus-kubernetes.yml and rules.yml:
#   helm repo add prometheus-community https://prometheus-community.github.io/helm-charts
#   kubectl create namespace monitoring; kubectl apply -f rbac.yaml
#   helm install prometheus prometheus-community/prometheus --namespace monitoring -f values.yaml
serviceAccounts:
  server:
    create: false
    name: inference-gateway-sa-metrics-reader

extraScrapeConfigs: |
"""
# Jobs of prometheus-kubernetes.yml; the other one would scrape the same series a second time.
JOBS = ("inpick", "vllm")


def values(folder):
    """The text of values.yaml."""
    jobs = list(job_texts((folder / "prometheus-kubernetes.yml").read_text()))
    groups = (folder / "rules.yml").read_text().split("\ngroups:\n", 1)[1]
    return HEAD + indented("\n".join(jobs), 2) + "\nserverFiles:\n  alerting_rules.yml:\n    groups:\n" + indented(groups, 4)


def job_texts(configuration):
    """The text of each job that is taken."""
    jobs = configuration.split("\nscrape_configs:\n", 1)[1].split("\nrule_files:", 1)[0]
    for text in re.split(r"(?m)^(?=- job_name: )", jobs)[1:]:
        name = re.match(r"- job_name: (\S+)", text).group(1)
        if name in JOBS:
            # What follows a job is the comment of the next one.
            lines = text.rstrip().splitlines()
            while lines[-1].startswith("#") or not lines[-1]:
                lines.pop()
            yield "\n".join(lines) + "\n"


def indented(text, width):
    return "".join(f"{' ' * width}{line}" if line.strip() else line for line in text.splitlines(keepends=True))
