"""What agents are called that nobody has named."""


def agent_names(count: int) -> tuple[str, ...]:
    """pi-01, pi-02, …: as many digits as it takes, so that they sort by number."""
    width = max(2, len(str(count)))
    return tuple(f"pi-{number:0{width}d}" for number in range(1, count + 1))
