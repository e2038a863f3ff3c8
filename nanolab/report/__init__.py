"""From MLflow runs to report.md, report.html and results.csv."""
