"""Values in, text out: terminal, log lines, Prometheus, report."""
