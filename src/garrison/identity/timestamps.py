"""Times as JSON shows them: RFC 3339 in UTC, to the second."""

from datetime import UTC, datetime


def rfc3339(unix_s: float) -> str:
    """Return `2026-01-31T12:00:00Z` for Unix seconds."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
