"""Values in, text out: terminal, log lines, Prometheus, HTML report."""
