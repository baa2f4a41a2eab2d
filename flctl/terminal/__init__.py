"""What a person or a program reads on the standard streams: tables, lines, JSON, the live view."""
