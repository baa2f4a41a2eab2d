"""Every command with its options, from the program itself."""

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import typer
import typer.main

from flctl.cli.app import GROUPS, app
from generate.plain import code, markdown, paragraphs, table


class Found(NamedTuple):
    path: tuple[str, ...]
    """Words after `flctl`."""
    command: Any
    context: Any

    @property
    def name(self) -> str:
        return " ".join(("flctl", *self.path))

    @property
    def is_group(self) -> bool:
        return hasattr(self.command, "list_commands")

    @property
    def options(self) -> list[Any]:
        return [each for each in self.command.get_params(self.context) if is_shown(each)]


def is_shown(parameter: Any) -> bool:
    return not getattr(parameter, "hidden", False) and parameter.name != "help"


def root() -> Found:
    command: Any = typer.main.get_command(app)
    return Found((), command, typer.Context(command, info_name="flctl"))


def within(group: Found) -> Iterator[Found]:
    """The commands of a group, and those of its groups."""
    for name in group.command.list_commands(group.context):
        command = group.command.get_command(group.context, name)
        context = typer.Context(command, info_name=name, parent=group.context)
        found = Found((*group.path, name), command, context)
        yield found
        if found.is_group:
            yield from within(found)


def every() -> list[Found]:
    return list(within(root()))


def missing() -> list[str]:
    found = [each.name for each in every() if not (each.command.help or "").strip()]
    return found + [
        f"{each.name}: {parameter.opts[0]}"
        for each in every()
        for parameter in each.options
        if not (getattr(parameter, "help", None) or "").strip()
    ]


def page() -> str:
    """Tables of all commands, by what one wants to do, and the sidebar's list of their pages."""
    top = {each.path[0]: each for each in every() if len(each.path) == 1}
    parts = []
    for title, names in GROUPS.items():
        rows = [(f"[`{name}`](commands/{name}.md)", _first(top[name])) for name in names]
        parts += [f"## {title}", table(("command", "what it does"), rows)]
    pages = [f"commands/{name}" for name in top]
    return "\n\n".join([*parts, "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])])


def pages() -> dict[str, str]:
    """The page of each command, and of each group with all its commands, by name."""
    return {
        each.path[0]: "\n\n".join(_sections(each)) + "\n" for each in every() if len(each.path) == 1
    }


def _first(found: Found) -> str:
    return markdown(found.command.get_short_help_str(limit=300))


def _sections(found: Found) -> Iterator[str]:
    yield f"{'#' * len(found.path)} {found.name}"
    yield f"```{{program}} {found.name}\n```"
    yield paragraphs(found.command.help)
    if found.is_group:
        inner = [each for each in within(found) if len(each.path) == len(found.path) + 1]
        if any(map(is_shown, found.command.get_params(found.context))):
            yield from _usage(found)
        yield table(
            ("command", "what it does"),
            [(f"[`{each.name}`](#{each.name.replace(' ', '-')})", _first(each)) for each in inner],
        )
        for each in inner:
            yield from _sections(each)
    else:
        yield from _usage(found)


def _usage(found: Found) -> Iterator[str]:
    usage = found.command.get_usage(found.context).removeprefix("Usage: ")
    yield f"```text\n{' '.join(usage.split())}\n```"
    if epilog := (found.command.epilog or "").strip():
        yield f"```console\n{epilog}\n```"
    panels: dict[str, list[str]] = {}
    for each in found.options:
        is_argument = each.param_type_name == "argument"
        name = "Arguments" if is_argument else getattr(each, "rich_help_panel", None) or "Options"
        panels.setdefault(name, []).append(_option(each, found.context))
    for name in sorted(panels, key=lambda name: (name != "Arguments", name == "Options")):
        if len(panels) > 1 or name == "Arguments":
            yield f"```{{rubric}} {markdown(name)}\n```"
        yield from panels[name]


def _option(parameter: Any, context: Any) -> str:
    shown, text = parameter.get_help_record(context) or (parameter.name, "")
    shown = re.sub(r" <[\w ]+(\[.+\])?>$", "", shown).replace(" / ", ", ")
    text = re.sub(r"\b([\d.e-]+)<=x<=(\d+)", r"\1 to \2", text)
    text = re.sub(r"\bx>=([\d.e-]+)", r"at least \1", text)
    text, *notes = re.split(r"  \[", text)
    facts = [
        part for note in notes for part in note.removesuffix("]").split("; ") if ": FL" not in part
    ]
    lines = [f"```{{option}} {shown}", filled(markdown(text))]
    if facts:
        lines += ["", f"*{markdown('; '.join(facts))}*"]
    if variable := variable_of(parameter, context):
        lines += ["", f"Environment: `{variable}`"]
    return "\n".join([*lines, "```"])


def filled(text: str) -> str:
    """With the names of the strategies that are installed."""
    named = sorted({each.name for each in entry_points(group="flctl.strategies")})
    return text.replace("\\{strategies\\}", ", ".join(map(code, named)))


def variable_of(parameter: Any, context: Any) -> str | None:
    """The environment variable that gives this option its value."""
    if parameter.envvar:
        return parameter.envvar if isinstance(parameter.envvar, str) else parameter.envvar[0]
    if parameter.param_type_name == "argument":
        return None
    prefix = context.auto_envvar_prefix or context.command.context_settings.get(
        "auto_envvar_prefix"
    )
    return f"{prefix}_{parameter.name.upper()}" if prefix and parameter.allow_from_autoenv else None
