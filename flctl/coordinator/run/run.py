"""One run from its first round to its last. Read it from top to bottom:

    begin ─► gather agents ─► open a round ─► (flctl.coordinator.run.round_driver) ─► committed
                  ▲                                                              │
                  └──────────────────────────────────────────────────────────────┘

Messages, the time, and outcomes of background work come in. Long work is left to threads; short
synced writes of the journal, and the check of the spool after a restart, block the main thread.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

from flctl.coordinator.run.context import Heard, RunContext, RunInput
from flctl.coordinator.run.decisions import finish, open_round
from flctl.coordinator.run.gathering import Gathering
from flctl.coordinator.run.reports import tell_failure, tell_progress
from flctl.coordinator.run.round_driver import RoundDriver
from flctl.coordinator.run.steps import Steps
from flctl.coordinator.run.storing import take_stock
from flctl.coordinator.store.folder import RunFolder
from flctl.core import events
from flctl.core.history import History
from flctl.core.round import Back, Tick
from flctl.core.stream import AgentsAwaited, Published, RunBegun
from flctl.errors import NoAgents
from flctl.wire.messages import Cancel, Failed, Progress

logger = logging.getLogger(__name__)

TELL_S = 5.0
"""Shortest time between two events about missing agents: hundreds may arrive one by one."""
GOES_ON = (
    "the run continues by itself when enough are here; to continue without an agent that is gone, "
    "cordon it (flctl cordon) or lower the quorum (flctl train --resume with --quorum)"
)


class Run:
    def __init__(self, context: RunContext) -> None:
        self._steps = Steps(self.give_up)
        self._context = dataclasses.replace(
            context,
            disk=self._steps.after(context.disk),
            thinking=self._steps.after(context.thinking),
        )
        self._gathering: Gathering | None = None
        self._has_gathered = False
        """Once the fleet has had time to connect, rounds begin with the agents that are here."""
        self.round: RoundDriver | None = None
        """The one that is open."""
        self._unsettled: events.RoundCommitted | None = None
        self._ending = False
        self._ends_with: events.AnyEvent | None = None
        """End of the run, after the commit that is being written."""
        self._told: tuple[object, float] = (None, -math.inf)
        """The agents that the last such event named as missing, and its time."""
        self.ended = False

    @property
    def run(self) -> str:
        return self._context.run

    @property
    def open(self) -> bool:
        """Its end has not begun."""
        return not self._ending and self._ends_with is None

    @property
    def folder(self) -> RunFolder:
        return self._context.folder

    @property
    def history(self) -> History:
        """State of the run in memory: with a full disk, the journal may hold less."""
        return self._context.history

    @property
    def _waits(self) -> RoundDriver | Gathering | None:
        return self.round or self._gathering

    def status(self) -> dict[str, Any]:
        """Status for `flctl status`."""
        context, waits = self._context, self._waits
        return {
            "run": self.run,
            "round": context.history.round,
            "rounds": context.settings.rounds,
            "phase": "waiting for agents",
            "waiting_for": [],
            **(waits.status(context.clock()) if waits is not None else {}),
            "pausing": context.history.held,
        }

    def waiting(self) -> AgentsAwaited | None:
        """The event that names the agents a round waits for; None while none waits."""
        waits = self._waits
        return waits.waiting(self._context.clock()) if waits is not None else None

    def _tell_waiting(self) -> None:
        """Publish that event when it has changed."""
        now, (told, at) = self._context.clock(), self._told
        if self._waits is None or now < at + TELL_S or (news := self._waits.news(now)) == told:
            return
        if event := self.waiting():
            self._context.publish(event)
            at = now
        self._told = news, at

    # From start to finish ------------------------------------------------------------------

    def begin(self, noted: Sequence[events.AnyEvent] = (), draw_again: bool = False) -> None:
        """Start, or go on where the journal ends; `noted` is what was written there for that.

        `draw_again`: an open round was given up, because too few of its agents were here."""
        self._steps.do(lambda: self._begin(noted, draw_again))

    def _begin(self, noted: Sequence[events.AnyEvent], draw_again: bool) -> None:
        context, history = self._context, self._context.history
        logger.info("run=%s begins at round %d", self.run, history.round + 1)
        settings = context.settings
        begun = RunBegun(
            run=self.run, round=history.round, rounds=settings.rounds, task=settings.task,
            agents=settings.agents,
        )  # fmt: skip
        context.publish(begun)
        context.tell(noted)
        context.folder.mend(history, context.settings.keep_rounds)
        opened = history.opened
        if opened is not None:
            self._look_at_spool(opened)
        if opened is not None and not draw_again and not context.has_to_draw_again(opened):
            self._reopen(opened)
        else:
            self._gather()

    def _gather(self) -> None:
        """Wait for the agents of the next round, or finish when there is none."""
        context = self._context
        if finished := finish(context.history, context.settings, context.now()):
            self._end(finished)
            return
        if context.history.held:
            self._pause_if_held()
            return
        self._gathering = Gathering(
            context.crew(), context.clock(), not self._has_gathered, context.min_participants,
            context.history.accepted,
        )  # fmt: skip
        self._look_for_agents(self._gathering)

    def _look_for_agents(self, gathering: Gathering) -> None:
        context = self._context
        try:
            if gathering.look(context.clock()) is not None:
                self._gathering, self._has_gathered = None, True
                self._open(gathering)
                return
        except NoAgents as error:
            self._pause(f"round {context.history.round + 1}: {error}", awaits=True)
            return
        self._settle()
        self._tell_waiting()

    def _open(self, gathering: Gathering) -> None:
        context, before = self._context, self._context.history.opened
        round_id = context.history.round + 1
        drawn = gathering.draw(round_id)
        attempt = before.attempt + 1 if before is not None else 1
        opened = open_round(context.folder, context.history, drawn, attempt, context.now())
        if len(drawn.invited) == 1 and not context.history.alone:
            text = "run=%s round=%d asks one agent only, %s: its update is the model"
            logger.warning(text, self.run, round_id, drawn.invited[0])
        # Not synced: if it is lost in a crash, the round opens again, as good as new.
        context.record([opened], sync=False)
        self._drive(opened)
        self._steps.do(self._settle)

    def _look_at_spool(self, opened: events.RoundOpened) -> None:
        context = self._context
        accepted = context.history.accepted
        for agent in take_stock(context.folder, context.journal, opened.round, accepted):
            why = "its update is missing or damaged in the spool; it is asked for again"
            logger.warning("round=%d agent=%s %s", opened.round, agent, why)
            del accepted[agent]

    def _reopen(self, opened: events.RoundOpened) -> None:
        """Go on in the round that was open when the coordinator stopped."""
        context, accepted = self._context, self._context.history.accepted
        context.folder.room_for(context.history.size, len(opened.invited) - len(accepted))
        names = ", ".join(sorted(accepted)) or "no agent yet"
        logger.info("run=%s round=%d goes on with updates of %s", self.run, opened.round, names)
        self._drive(opened, resumed=True)

    def _drive(self, opened: events.RoundOpened, resumed: bool = False) -> None:
        self._told = None, -math.inf
        self.round = RoundDriver(self._context, self._steps, opened, self._on_done, resumed)
        self.round.begin()

    def _on_done(self, event: events.RoundCommitted | None, reason: str, awaits: bool) -> None:
        """The round is committed, or cannot go on."""
        if event is None:
            self._pause(reason, awaits)
            return
        self._leave_round()
        context = self._context
        head = context.journal.head
        context.note([event])
        for agent, member in context.host.roster.members.items():
            if agent in event.participants:
                member.last_round = event.round
        logger.info("%s head=%s", event.for_log(), head)
        self._unsettled = event
        if self._ends_with is not None:
            self._end(self._ends_with)
            return
        self._gather()

    def _settle(self) -> None:
        """Tidy up after the last commit, when no agent waits for the disk any more."""
        context, event, self._unsettled = self._context, self._unsettled, None
        if event is None:
            return

        def done(_: object, error: BaseException | None) -> None:
            if error is not None:
                logger.warning("run=%s could not tidy up: %s", self.run, error)

        folder, history, keep = context.folder, context.history, context.settings.keep_rounds
        context.disk.submit(lambda: folder.settle(event, history, keep, reused=True), done)

    # The run ends ----------------------------------------------------------------------------

    def hold(self, held: bool) -> None:
        """Draw no round after the open one, by an operator's order; False: go on after all. When
        it returns, the order is durable (`history.held`)."""
        self._steps.do(lambda: self._hold(held))

    def _hold(self, held: bool) -> None:
        context = self._context
        if self._ending or held == context.history.held:
            return
        context.record([events.PauseOrdered(at=context.now(), withdrawn=not held)])
        self._pause_if_held()

    def _pause_if_held(self) -> None:
        """Where no round is open, or its attempt has failed: the next one would draw agents."""
        between = self.round is None or self.round.between_attempts
        if between and self._context.history.held and not self._ending:
            self._end(events.RunPaused(at=self._context.now(), reason=events.HELD))

    def stop(self, reason: str) -> None:
        """End the run by an operator's order; it can be resumed."""
        self._steps.do(lambda: self._stop(reason))

    def _stop(self, reason: str) -> None:
        if not self._ending:
            for member in self._context.host.roster.connected():
                self._context.host.tell(member.name, Cancel(run=self.run))
            self._end(events.RunStopped(at=self._context.now(), reason=reason))

    def abandon(self) -> None:
        """The coordinator stops: leave everything so that the run goes on at its next start."""
        self._leave_round()
        self.ended = True
        self._context.journal.close()

    def give_up(self, error: Exception) -> None:
        """A step has failed because the disk did."""
        if self._ending:
            logger.error("run=%s %s", self.run, error)
        else:
            self._pause(f"round {self._context.history.round + 1}: {error}")

    def _pause(self, reason: str, awaits: bool = False) -> None:
        """Agents keep their updates, which a resumed run asks for."""
        context = self._context
        # Runs of other kinds end with this process.
        awaits = awaits and context.started.kind == "fleet" and not context.history.held
        if awaits:
            reason += f"; {GOES_ON}"
        logger.error("run=%s paused: %s", self.run, reason)
        self._end(events.RunPaused(at=context.now(), reason=reason, awaits=awaits))

    def _end(self, event: events.AnyEvent) -> None:
        if self._ending:
            return
        event = self._ends_with or event
        if self.round is not None and self.round.committing:
            # The round is in the journal, or will be: best and last have to be its models.
            self._ends_with = event
            return
        self._ending = True
        self._leave_round()
        self._settle()
        context = self._context

        def done(_: object, error: BaseException | None) -> None:
            if error is not None:
                logger.error("run=%s its end could not be written: %s", self.run, error)
            else:
                logger.info("run=%s %s head=%s", self.run, event.word, context.journal.head)
            context.history.apply(event)
            self.ended = True
            context.journal.close()
            if error is not None:
                context.host.publish(Published(self.run, event))
            context.tell([event])

        def end() -> None:
            # Best and last: no later round writes them again.
            context.folder.sync(context.history)
            if isinstance(event, events.RunFinished):
                context.folder.forget_residuals()
            context.journal.append([event])

        context.disk.submit(end, done)

    def _leave_round(self) -> None:
        left, self.round, self._gathering = self.round, None, None
        if left is not None:
            left.close()

    # What comes in -----------------------------------------------------------------------------

    def on(self, event: RunInput) -> None:
        """Queue the event as a step; it waits for the end of the current one."""
        self._steps.do(lambda: self._on(event))

    def _on(self, event: RunInput) -> None:
        match event:
            case Back(agent) if not self._context.is_here(agent):
                return  # cordoned: it may deliver an update that it has, and is asked for no more
            case Heard(agent, Progress() as progress):
                if self.round is not None:
                    tell_progress(self._context, agent, progress)
            case Heard(agent, Failed() as failed):
                tell_failure(self._context, agent, failed)
                if failed.retrying:
                    return
        if self.round is not None:
            self.round.on(event)
            self._steps.do(self._pause_if_held)
            if isinstance(event, Tick):
                self._steps.do(self._tell_waiting)
        if self._gathering is not None and isinstance(event, (Back, Tick)):
            self._look_for_agents(self._gathering)
