"""Write monitoring/prometheus-rule.yaml: the alerts of ../alerts.yml for the Prometheus operator.

Run it after each change of the alerts; a test compares.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALERTS = HERE.parent / "alerts.yml"
RULE = HERE / "monitoring" / "prometheus-rule.yaml"

HEAD = """\
# Made by make_rule.py from ../../alerts.yml: change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: streaming
  labels:
    app.kubernetes.io/name: streaming-trainer
spec:
"""


def rule() -> str:
    """Return the text of the file."""
    return HEAD + textwrap.indent(ALERTS.read_text(), "  ")


if __name__ == "__main__":
    RULE.write_text(rule())
