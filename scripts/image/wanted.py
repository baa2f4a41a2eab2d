"""Prints what flctl needs besides torch, with the extras of argv[1] (names with commas)."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = list(project["dependencies"])
for extra in filter(None, sys.argv[1].split(",")):
    wanted += project["optional-dependencies"][extra]
print(*sorted(line for line in wanted if not line.startswith("torch")), sep="\n")
