"""From MLflow runs to report.md and figures."""
