"""What a run reports to OpenTelemetry: spans and metrics, and their way to a collector. Without an SDK they are no-ops.

Attributes are ids, counts, outcomes and money. Keep out prompts, addresses with a query, and the texts of errors.
"""
