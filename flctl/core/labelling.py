"""Labels of all agents of a fleet: what they say, and what operators have changed. Pure."""

from collections.abc import Iterable, Mapping

from flctl import labels
from flctl.errors import UsageError
from flctl.labels import counting


class Labelling:
    def __init__(
        self,
        own: Mapping[str, Mapping[str, str]] | None = None,
        changed: Mapping[str, Mapping[str, str | None]] | None = None,
    ) -> None:
        self.own = {agent: dict(labels) for agent, labels in (own or {}).items()}
        """The last labels that each agent sent, kept so that an absent agent is counted as well."""
        self.changed = {agent: dict(labels) for agent, labels in (changed or {}).items()}
        """What operators have set, or (None) taken away."""
        self._counting: dict[str, dict[str, str]] = {}
        """Computed once: runs ask for all agents several times a second."""

    def of(self, agent: str) -> Mapping[str, str]:
        """The labels that count."""
        found = self._counting.get(agent)
        if found is None:
            found = counting(self.own.get(agent, {}), self.changed.get(agent, {}))
            self._counting[agent] = found
        return found

    def chosen(self, where: Iterable[str], agents: Iterable[str]) -> list[str]:
        """Those of the agents that fulfil all requirements."""
        if not (where := tuple(where)):
            return [*agents]
        return [agent for agent in agents if labels.matches(where, self.of(agent))]

    def on_said(self, agent: str, said: Mapping[str, str]) -> bool:
        """Whether it is another thing than before."""
        if dict(said) == self.own.get(agent, {}):
            return False
        self._counting.pop(agent, None)
        self.own[agent] = dict(sorted(said.items()))
        if not said:
            del self.own[agent]
        return True

    def change(self, agent: str, changes: Mapping[str, str | None], reset: bool) -> "Labelling":
        """Another one, in which an operator has changed these, after all others before were taken
        back if `reset`. Raises UsageError when the agent would have too many."""
        own, before = self.own.get(agent, {}), {} if reset else self.changed.get(agent, {})
        now = {k: v for k, v in {**before, **changes}.items() if v is not None or k in own}
        count = len({*own, *now} - {key for key, value in now.items() if value is None})
        if count > labels.MOST:
            raise UsageError(f"{agent} would have {count} labels, at most {labels.MOST}")
        changed = {**self.changed, agent: now}
        if not now:
            del changed[agent]
        return Labelling(self.own, changed)

    def forget(self, agents: Iterable[str]) -> None:
        """Agents that are no longer enrolled."""
        for agent in agents:
            self.own.pop(agent, None)
            self.changed.pop(agent, None)
            self._counting.pop(agent, None)
