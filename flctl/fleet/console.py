"""An operator's connection to a local or remote coordinator: questions and orders."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from flctl.coordinator.store.runs import Found
from flctl.core.chain import Chain
from flctl.core.events import AnyEvent, Journaled
from flctl.core.stream import FROM_START, Published
from flctl.errors import FlctlError, MalformedMessage, UsageError, decoded, printable
from flctl.files import explained, new_file
from flctl.fleet import answers, pages
from flctl.fleet.connection import Connection
from flctl.fleet.following import Following
from flctl.labels import Labels, matches, none_chosen
from flctl.learning.whole import merge
from flctl.transport.blobs import Download
from flctl.values import names_run
from flctl.wire.messages import Deal, Digest, Natural, Offset, RunId, Short

START_S = 180.0
"""How long an answer may take for what imports torch and reads data first."""
SINKS, TEST_S = ("webhook", "command"), 80.0
"""Where alerts go, and how long the answer about a test alert may take."""
FAR = 2**40
"""Beyond the end of every audit file."""


class RemoteRuns(Connection):
    """The runs of a coordinator, and all else that may be asked of it and ordered."""

    # The documents that `--json` prints come back unchanged, once they have been checked.

    def status(self, where: Sequence[str] = ()) -> dict[str, Any]:
        """As `answers.FleetStatus`; only agents that fulfil all requirements."""
        found = dict(self._document(answers.FleetStatus, self.ask("status")))
        if where:
            names = self.chosen(where, found)
            found["agents"] = [agent for agent in found["agents"] if agent["name"] in names]
        return found

    def look(self) -> Found:
        """A summary of each run, as `answers.RunSummary`."""
        return Found(list(self._document(list[answers.RunSummary], self.ask("runs"))), [])

    def about(self, run: str) -> dict[str, Any]:
        """Summary and settings of a run."""
        body = self.ask("run", run=run)
        self._expect_run(answers.read(answers.RunDetails, body, self.where).run, run)
        return dict(body)

    def events(self, run: str, chain: Chain | None = None) -> Iterator[AnyEvent]:
        """Events of a run's journal, fetched in pages; `chain` follows its lines."""
        lines = pages.lines(partial(self.journal, run), f"the journal of run {run}")
        for line in lines:
            if chain is not None:
                chain.follow(line)
            with decoded(MalformedMessage, f"the journal of run {run} from {self.where}"):
                event = msgspec.json.decode(line)
            found = answers.read_told({"run": run, "event": event}, self.where)
            if found is not None and isinstance(found.event, Journaled):
                yield found.event

    def journal(self, run: str, offset: int) -> bytes:
        """The next bytes of a run's journal as it stands on the disk; none at its end."""
        body = self.ask("journal", run=run, offset=offset)
        return bytes(answers.read_field(bytes, body, "data", self.where))

    def audit(self, offset: int) -> bytes:
        """The next bytes of the coordinator's audit file; none at its end."""
        return bytes(self.ask("audit", offset=offset)["data"])

    def audit_end(self, most: int) -> bytes:
        """The last bytes of the coordinator's audit file, up to `most`; the first line of them may
        be cut off."""
        size = int(answers.read_field(Offset, self.ask("audit", offset=FAR), "size", self.where))
        data, offset = b"", max(0, size - most)
        while len(data) < most and (more := self.audit(offset)):
            data, offset = data + more, offset + len(more)
        return data[:most]

    def start(self, given: dict[str, Any], where: str) -> str:
        body = self.ask("start", START_S, given=given, where=where)
        return self._run_of(body)

    def resume(self, run: str, changes: Mapping[str, Any] | None = None) -> str:
        more = {"changes": dict(changes)} if changes else {}
        return self._order_to_run("resume", run, **more)

    def stop(self, run: str) -> str:
        return self._order_to_run("stop", run)

    def pause(self, run: str) -> answers.Pausing:
        """Draw no more rounds until it is resumed. Raises FlctlError."""
        found = answers.read(answers.Pausing, self.ask("pause", run=run), self.where)
        self._expect_run(found.run, run)
        return found

    def personalise(self, run: str, **order: Any) -> tuple[str, int]:
        """Name of the run, and the number of this order to it."""
        body = self.ask("personalise", run=run, **order)
        self._expect_run(found := self._run_of(body), run)
        return found, int(answers.read_field(Natural, body, "number", self.where))

    def keys(self) -> dict[str, Any]:
        """As `answers.KeyList`."""
        return dict(self._document(answers.KeyList, self.ask("keys")))

    def add_key(self, name: str, key: str, role: str) -> None:
        self.ask("key-add", name=name, key=key, role=role)

    def revoke(self, name: str) -> list[str]:
        """The ids of the tokens that were closed with it."""
        body = self.ask("key-revoke", name=name)
        return list(answers.read_field(list[Short], body, "closed", self.where))

    def cordon(self, agent: str) -> None:
        self.ask("cordon", name=agent)

    def uncordon(self, agent: str) -> None:
        self.ask("uncordon", name=agent)

    def label(
        self, agent: str, changes: Mapping[str, str | None], reset: bool = False
    ) -> dict[str, str]:
        """Set labels, or (None) take them away; the agent's labels afterwards."""
        more = {"reset": True} if reset else {}
        body = self.ask("label", name=agent, labels=dict(changes), **more)
        return dict(answers.read_field(Labels, body, "labels", self.where))

    def log(
        self, agent: str, lines: int = 200, since_s: float | None = None, after: str = ""
    ) -> answers.LogPage:
        """Lines of an agent's log, the newest ones, or those after a cursor; without what steers
        a terminal. Raises FlctlError."""
        more: dict[str, Any] = {} if since_s is None else {"since_s": since_s}
        if after:
            more["after"] = after
        body = self.ask("logs", agent=agent, lines=lines, **more)
        page = answers.read(answers.LogPage, body, self.where)
        harmless = (replace(line, text=printable(line.text, kept="")) for line in page.lines)
        return replace(page, lines=tuple(harmless))

    def chosen(self, where: Sequence[str], status: Mapping[str, Any] | None = None) -> list[str]:
        """Names of the agents that fulfil all requirements. Raises UsageError if none does."""
        agents = (status or self.status())["agents"]
        every = {agent["name"]: agent.get("labels") or {} for agent in agents}
        if found := [name for name, labels in every.items() if matches(where, labels)]:
            return found
        raise UsageError(none_chosen(where, every.values()))

    def alerts(self) -> dict[str, Any]:
        """As `answers.AlertList`."""
        return dict(self._document(answers.AlertList, self.ask("alerts")))

    def history(
        self, agent: str, figure: str, since_s: float = 86400.0, points: int = 1440
    ) -> dict[str, Any]:
        """A figure over time, as `answers.HistoryPoints`; "round" is of the agent ""."""
        body = self.ask("history", agent=agent, figure=figure, since_s=since_s, points=points)
        return dict(self._document(answers.HistoryPoints, body))

    def ack_alert(self, id_: int) -> dict[str, Any]:
        """As `answers.AlertShown`."""
        return dict(self._document(answers.AlertShown, self.ask("alert-ack", id=id_)))

    def mute_alerts(self, name: str, for_s: float) -> None:
        """An alert's name, or an agent's; 0 ends it."""
        self.ask("alert-mute", name=name, for_s=for_s)

    def test_alert(self) -> dict[str, Any]:
        """What has accepted a test alert. Raises FlctlError when not all have."""
        body = self.ask("alert-test", TEST_S)
        return {"accepted": answers.read_field(list[Short], body, "accepted", self.where)}

    def token(
        self, ttl_s: float, uses: int, deal: Deal | None = None, evaluates: bool = False
    ) -> str:
        more: dict[str, Any] = {} if deal is None else {"deal": msgspec.to_builtins(deal)}
        if evaluates:
            more["evaluates"] = True
        body = self.ask("token", ttl_s=ttl_s, uses=uses, **more)
        return str(answers.read_field(answers.JoinToken, body, "token", self.where))

    def close_tokens(self, ids: Sequence[str] | None) -> list[str]:
        """Those of them that were open; all for None."""
        which: dict[str, Any] = {} if ids is None else {"ids": list(ids)}
        body = self.ask("token-close", **which)
        return list(answers.read_field(list[Short], body, "closed", self.where))

    def invite(self, ttl_s: float) -> dict[str, Any]:
        """Open the door of `coordinator --invite`."""
        return dict(self._document(answers.Invited, self.ask("invite", ttl_s=ttl_s)))

    def rotate_server(self, step: str, overlap_s: float, anyway: bool) -> dict[str, Any]:
        body = self.ask("rotate-server", step=step, overlap_s=overlap_s, anyway=anyway)
        return dict(self._document(answers.Rotated, body))

    def watch(self, run: str, after: int = FROM_START) -> Iterator[Published | None]:
        """The run's events after the one with that number, for ever, each once; None now and
        then when it is quiet."""
        return iter(Following(self, run, after))

    def save_checkpoint(
        self, run: str, path: Path, round_id: int | None = None, model: Digest | None = None
    ) -> Path:
        """Fetch the newest model of a run, or that of a round, into `path`.

        `model` is its digest where that is known from the run's events. Raises FlctlError.
        """
        body = self.ask("checkpoint", run=run, **({} if round_id is None else {"round": round_id}))
        blob = answers.read(answers.Checkpoint, body, self.where)
        if round_id not in (None, blob.round):
            raise FlctlError(
                f"the coordinator at {self.where} is older: it supports only --which last"
            )
        if model not in (None, blob.blob):
            raise MalformedMessage(
                f"the coordinator at {self.where} offers another model of round {blob.round} than "
                f"the one in its record of run {run}"
            )
        with explained(path, "save the checkpoint", "--save-model"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if blob.frozen is None:
                self._fetch(blob, path, run, blob.round)
                return path
            with tempfile.TemporaryDirectory(prefix=".flctl-model-", dir=path.parent) as folder:
                parts = Path(folder) / "model", Path(folder) / "frozen"
                for part, target in zip((blob, blob.frozen), parts, strict=True):
                    self._fetch(part, target, run, blob.round)
                merge(*parts, path)
        return path

    def _fetch(self, blob: answers.Fetchable, path: Path, run: str, round_id: int) -> None:
        with new_file(path) as file:
            fd = os.dup(file.fileno())
            try:
                self.download(Download(blob.blob, blob.size, fd), run, round_id)
            finally:
                os.close(fd)

    def __enter__(self) -> "RemoteRuns":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _document(self, kind: Any, body: Any) -> Any:
        answers.read(kind, body, self.where)
        return body

    def _run_of(self, body: Any) -> str:
        return str(answers.read_field(RunId, body, "run", self.where))

    def _order_to_run(self, what: str, run: str, **more: Any) -> str:
        found = self._run_of(self.ask(what, run=run, **more))
        self._expect_run(found, run)
        return found

    def _expect_run(self, found: str, asked: str) -> None:
        if not names_run(asked, found):
            raise MalformedMessage(
                f"the coordinator at {self.where} answered about run {found} instead of {asked}"
            )
