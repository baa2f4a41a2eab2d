"""Output on the standard streams: tables, lines, JSON, the live view."""
