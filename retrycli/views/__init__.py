"""Turn values into text: for the terminal, log lines, Prometheus and the HTML report."""
