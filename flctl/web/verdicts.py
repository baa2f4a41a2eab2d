"""Which of several runs is the best, where they are measured alike."""

from collections.abc import Mapping
from typing import NamedTuple

from flctl.core.metrics import label
from flctl.formats import figure
from flctl.web.picture import RunPicture


class Worth(NamedTuple):
    """The figure that counts: of the best round, or, where none was measured to be chosen, of the
    last one."""

    value: float
    rule: str
    lower: bool

    @property
    def words(self) -> str:
        return f"{figure(self.value, 4)} ({self.rule})"


def worth(picture: RunPicture) -> Worth | None:
    kept = picture.figures_of(picture.best)
    if kept is not None and kept.score is not None and kept.score.chosen is not None:
        return Worth(kept.score.chosen, kept.score.rule, kept.score.primary.lower)
    chooses = picture.measures.chooses
    if not picture.rounds or chooses.name not in (last := picture.rounds[-1]).values:
        return None
    rule = f"last round's {label(chooses.name)} on {last.part} data"
    return Worth(last.values[chooses.name], rule, chooses.lower)


def verdict(found: Mapping[str, Worth | None]) -> tuple[str, str]:
    """The name of the best run, or "", and a sentence."""
    scored = {name: worth for name, worth in found.items() if worth is not None}
    if len(found) < 2:
        return "", ""
    if len(scored) < 2:
        return "", "No verdict: fewer than two of these runs were measured."
    rules: dict[str, list[str]] = {}
    for name, worth in scored.items():
        rules.setdefault(worth.rule, []).append(name)
    if len(rules) > 1:
        said = "; ".join(f"{', '.join(names)} by {rule}" for rule, names in sorted(rules.items()))
        return "", f"No verdict: these runs are not judged by the same figure: {said}."
    sign = -1 if next(iter(scored.values())).lower else 1
    first = max(scored, key=lambda name: scored[name].value * sign)
    return first, f"Best: {first}, by the {scored[first].rule} ({figure(scored[first].value, 4)})."


def judged(found: Mapping[str, Worth | None]) -> dict[str, str]:
    return {name: worth.words for name, worth in found.items() if worth is not None}
