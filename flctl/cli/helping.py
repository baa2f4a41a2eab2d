"""What --help shows of a group and of a command."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import typer.core


class _Quick:
    """For shell completion, values stay as typed: the converters are slow to load."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        if ctx.resilient_parsing:
            for param in params:
                param.process_value = lambda _, value: value
        return params


class Commands(_Quick, typer.core.TyperGroup):
    """A group whose help shows the first sentence of each command in full."""

    groups: Mapping[str, tuple[str, ...]] | None = None
    """Headings of the help, with the commands below each."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        listed = self.list_commands(ctx)
        width = max(map(len, listed))
        for heading, names in (self.groups or {"Commands": tuple(listed)}).items():
            found = ((name, self.get_command(ctx, name)) for name in names)
            rows = [(n.ljust(width), c.get_short_help_str(limit=300)) for n, c in found if c]
            with formatter.section(heading):
                formatter.write_dl(rows)


class Command(_Quick, typer.core.TyperCommand):
    """A command whose help lists its options by group, in plain text: rich would take longer
    to load than everything else a command needs."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Typer puts braces around what is required."""
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for name, records in self.options_by_group(ctx).items():
            with formatter.section(name):
                formatter.write_dl(records)

    def options_by_group(
        self, ctx: Any, strategies: Iterable[str] | None = None
    ) -> dict[str, list[tuple[str, str]]]:
        """Each option as it is written, and its text; the manual pages have them from here too.

        `strategies`: names for --strategy instead of the installed ones.
        """
        from importlib.metadata import entry_points

        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                is_argument = param.param_type_name == "argument"
                name = "Arguments" if is_argument else getattr(param, "rich_help_panel", None)
                shown = re.sub(r" <\w+(\[.+\])?>$", "", record[0])  # a type of Python
                text = re.sub(r"\b([\d.e-]+)<=x<=(\d+)", r"\1 to \2", record[1])
                text = re.sub(r"\bx>=([\d.e-]+)", r"at least \1", text)
                if "{strategies}" in text:  # those of other packages too
                    named = strategies or (e.name for e in entry_points(group="flctl.strategies"))
                    text = text.replace("{strategies}", ", ".join(sorted(set(named))))
                groups.setdefault(name or "Options", []).append((shown, text))
        # The options that every command has come last.
        ordered = sorted(groups, key=lambda name: (name != "Arguments", name == "Options"))
        return {name: groups[name] for name in ordered}

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """A line to copy is not wrapped."""
        lines = (self.epilog or "").splitlines()
        if lines:
            with formatter.section("Examples" if len(lines) > 1 else "Example"):
                formatter.write("".join(f"  {line}\n" for line in lines))
