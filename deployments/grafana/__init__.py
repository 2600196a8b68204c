"""The Grafana dashboard `i2v.json`, and the script that writes it."""
