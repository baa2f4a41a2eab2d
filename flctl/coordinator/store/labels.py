"""Labels of agents: a file of the state folder, as cordons are, for the same reasons."""

from pathlib import Path

import msgspec
from msgspec import Struct

from flctl.core.labelling import Labelling
from flctl.files import explained, load, replace
from flctl.labels import Changes, Labels
from flctl.settings import AgentName

FILE = "labels.json"
SCHEMA = 1


class LabelFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: int = SCHEMA
    own: dict[AgentName, Labels] = {}
    changed: dict[AgentName, Changes] = {}


def load_labels(state: Path) -> Labelling:
    """Raises StateError when the file is damaged."""
    path = state / FILE
    if not path.exists():
        return Labelling()
    then = "; remove it, and label the agents again"
    found = load(path, LabelFile, "read the labels of agents", then, SCHEMA)
    return Labelling(found.own, found.changed)


def save_labels(state: Path, labels: Labelling) -> None:
    """Raises StateError."""
    path, file = state / FILE, LabelFile(own=labels.own, changed=labels.changed)
    with explained(path, "save the labels of agents"):
        replace(path, msgspec.json.encode(file, order="sorted") + b"\n")
