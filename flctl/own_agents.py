"""What local and virtual agents cannot be asked for, and only a fleet has, or a simulation."""

from flctl.errors import SettingsError
from flctl.settings import RunSettings, agent_names


def check_own_agents(settings: RunSettings, count: int, where: str) -> None:
    """Raises SettingsError."""
    kind = "local" if settings.local is not None else "virtual"
    if settings.engine == "ray":
        if settings.device == "cuda":
            raise SettingsError(f"{where}: engine ray is for CPUs; leave device out, or engine")
    elif settings.ray_address is not None:
        raise SettingsError(f'{where}: ray_address is for engine ray; add engine = "ray"')
    elif settings.jobs not in (None, 1) and settings.threads != 1:
        raise SettingsError(
            f"{where}: with jobs every process has one thread: leave threads out, or jobs"
        )
    if settings.agents and (len(settings.agents) != count or settings.agents != agent_names(count)):
        raise SettingsError(
            f"{where}: agents cannot be chosen together with {kind} = {count}, which makes its "
            "own; leave one of them out"
        )
    if settings.where:
        raise SettingsError(
            f"{where}: where is for a fleet; {kind} agents have no labels: leave it out"
        )
    if settings.dataset != "default":
        raise SettingsError(
            f"{where}: dataset is for agents of their own; {kind} ones have what data names, or "
            "what comes with the task"
        )
