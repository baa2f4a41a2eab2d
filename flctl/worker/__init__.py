"""The process that trains and evaluates, seen from outside and from inside.

`flctl.worker.process` starts it and never imports torch; `flctl.worker.main` runs in it.
"""
