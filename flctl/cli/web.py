"""`flctl web`: the fleet in a browser, and /metrics for Prometheus."""

from pathlib import Path

from flctl.cli.options import At, Verbose, command, flag, option, path, single

app = single()
EXAMPLE = "flctl web --bind 0.0.0.0:9177 --name pc.example.org"


@command(app, "flctl web", EXAMPLE, auto_envvar_prefix="FLCTL_WEB")
def web(
    at: At,
    bind: str = option("HOST:PORT", "Address to listen on.", default="127.0.0.1:9177"),
    name: list[str] = option("HOST", "Another name of it in browsers; repeatable.", default=[]),
    login: bool = flag("Ask for the token on loopback, too.", "--login"),
    read_only: bool = flag("Show no buttons.", "--read-only"),
    metrics_only: bool = flag("Serve nothing but /metrics.", "--metrics-only"),
    metrics_token: Path | None = option("FILE", "Token of Prometheus.", parser=path, default=None),
    verbose: Verbose = False,
) -> None:
    """Show the fleet in a browser, and serve /metrics to Prometheus.

    Buttons need an admin key. Beyond loopback it asks for the token in STATE/web/token.
    """
    from flctl.web import run

    run(at.folder, at.context, verbose, bind, name, login, read_only, metrics_only, metrics_token)
