"""The running service: server and worker processes, logs, metrics and proxies."""
