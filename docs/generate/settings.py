"""Every key of the TOML files: a run's settings, and a coordinator's."""

from msgspec import Struct, structs

from flctl.cli.flags import FLAGS
from flctl.coordinator.alerts.settings import (
    AlertSettings,
    CommandSettings,
    CoordinatorSettings,
    WebhookSettings,
)
from flctl.settings import KEYS, NOT_YET, RunSettings
from flctl.values import seconds
from generate import fields
from generate.commands import filled
from generate.plain import code, markdown, table

PLACES: dict[str, type[Struct]] = {
    "": CoordinatorSettings,
    "alerts": AlertSettings,
    "alerts.webhook": WebhookSettings,
    "alerts.command": CommandSettings,
}
BY_KEY = {flag.key: flag for flag in FLAGS}


def missing() -> list[str]:
    lack = [f"{key} of a run has no option" for key in KEYS if key not in (*BY_KEY, *NOT_YET)]
    lack += [f"--{flag.word} has no text" for flag in FLAGS if not flag.help.strip()]
    return lack + [each for kind in PLACES.values() for each in fields.without_text(kind)]


def page() -> str:
    return "\n\n".join(["## Settings of a run", *_run(), *_coordinator()])


def _run() -> list[str]:
    types = {f.name: f for f in fields.fields(RunSettings)}
    names = {f.name: f.encode_name for f in structs.fields(RunSettings)}
    parts: list[str] = []
    for panel in dict.fromkeys(flag.panel for flag in FLAGS):
        rows = []
        for flag in FLAGS:
            if flag.panel == panel:
                field = types[names[flag.key]]
                default = flag.default or field.default
                value = "time" if flag.read is seconds else field.type.removesuffix(" or null")
                value = "table" if value.startswith("object") else value
                text = filled(markdown(flag.help))
                rows.append((code(flag.word), value, markdown(default), text))
        parts += [f"### {markdown(panel)}", table(("key", "value", "default", "meaning"), rows)]
    return parts


def _coordinator() -> list[str]:
    parts = ["## Settings of a coordinator"]
    for place, kind in PLACES.items():
        if place:
            parts += [f"### `[{place}]`", fields.as_table(kind, defaults=True)]
    return parts
