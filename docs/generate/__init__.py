"""The parts of the reference that are made of the code, each by a module with two functions.

`page()` is the Markdown; `missing()` names what has no text: tests/docs lets nothing through.
"""
