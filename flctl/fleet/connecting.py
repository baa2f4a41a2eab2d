"""Decides where runs, keys and agents are, once and the same for every command."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flctl.coordinator.store.folder import all_runs
from flctl.coordinator.store.runs import LocalRuns
from flctl.errors import CoordinatorAway, FlctlError
from flctl.files import is_locked
from flctl.fleet.connection import start_command
from flctl.fleet.console import RemoteRuns
from flctl.fleet.context import LOCAL, Context, current_context, load_context, save_context
from flctl.transport.addresses import LOCK
from flctl.transport.keypair import public_key
from flctl.transport.zeromq import ControlLink, ZeroMqLink, control_address, control_is_there
from flctl.values import names_run


def connect(state: Path, context: str | None = None, run: str = "") -> LocalRuns | RemoteRuns:
    """The one rule of all commands:

    1. The remote coordinator that `context` names; `local` names none, and leaves out step 4.
    2. The coordinator that runs on `state`.
    3. `state` itself, when `run` is the name of a run, or its beginning, that it has.
    4. The remote coordinator that `flctl connect` saved there.
    5. `state` itself.

    Raises UsageError when there is no such context, StateError when it is damaged.
    """
    named = context not in (None, LOCAL)
    if not named and (is_locked(state / LOCK) or control_is_there(state)):
        return RemoteRuns(ControlLink(control_address(state)), str(state), state=state)
    here = bool(run) and any(names_run(run, folder.name) for folder in all_runs(state))
    saved = None if context == LOCAL or (here and not named) else load_context(state, context)
    if saved is None:
        return LocalRuns(state)
    name = context or current_context(state)
    return remote(saved, lambda found: save_context(state, found, name))


def connect_coordinator(state: Path, context: str | None = None, run: str = "") -> RemoteRuns:
    """The coordinator there. Raises CoordinatorAway when there is none."""
    found = connect(state, context, run)
    if isinstance(found, LocalRuns):
        raise CoordinatorAway(
            f"no coordinator runs on {state}; start one ({start_command(state)}), "
            "or connect to a remote one (flctl connect HOST:PORT)"
        )
    return found


def remote(context: Context, keep: Callable[[Context], object] = lambda _: None) -> RemoteRuns:
    """`keep` saves the context when the coordinator is known by another key from now on."""
    link = ZeroMqLink(context.coordinator, context.keys(), context.server_keys())

    def on_server_keys(keys: tuple[str, ...]) -> None:
        if keys != context.server_keys():
            with suppress(FlctlError):  # there is another chance with the next command
                keep(context.known_by([public_key(key, "a server key") for key in keys]))
        link.use_server_keys(keys)

    runs = RemoteRuns(link, context.coordinator, key=context.public_key)
    runs.on_server_keys = on_server_keys
    return runs
