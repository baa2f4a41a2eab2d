"""Every environment variable: those that stand for options, and the others."""

import re
from pathlib import Path

from generate import commands, fields
from generate.plain import code, markdown, table

ROOT = Path(__file__).resolve().parents[2]
OTHERS = fields.WORDS["environment"]
"""Text of those that are no option."""


def of_options() -> dict[str, dict[str, list[str]]]:
    """By variable, the options that it stands for, each with its commands."""
    found: dict[str, dict[str, list[str]]] = {}
    for each in commands.every():
        for option in each.options:
            if name := commands.variable_of(option, each.context):
                spelt = max(option.opts, key=len)
                found.setdefault(name, {}).setdefault(spelt, []).append(each.name)
    return found


def in_code() -> set[str]:
    """All that the program, the images, the playbooks and compose.yaml name."""
    paths = [
        *ROOT.glob("flctl/**/*.py"), *ROOT.glob("ansible/**/*.yml"), *ROOT.glob("Dockerfile*"),
        ROOT / "compose.yaml",
    ]  # fmt: skip
    named = re.compile(r"\bFLCTL_[A-Z_]*[A-Z]\b")
    return {name for path in paths for name in named.findall(path.read_text())}


def missing() -> list[str]:
    """Those of web options are named by a prefix alone."""
    known = {*of_options(), *OTHERS, "FLCTL_WEB"}
    return sorted(in_code() - known) + [name for name, text in OTHERS.items() if not text]


def page() -> str:
    rows = []
    for name, options in sorted(of_options().items()):
        said = [f"{code(option)} of {_commands(where)}" for option, where in options.items()]
        rows.append((code(name), "; ".join(said)))
    others = [(code(name), markdown(text)) for name, text in sorted(OTHERS.items())]
    return "\n\n".join(
        [
            "## In place of options", table(("variable", "stands for"), rows),
            "## Others", table(("variable", "meaning"), others),
        ]
    )  # fmt: skip


def _commands(names: list[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} commands"
    return ", ".join(code(name) for name in names)
