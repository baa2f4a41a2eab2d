"""`coordinator.toml`: the settings of a coordinator, which has only `[alerts]` so far."""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta, Struct

from flctl.core.alerts import KINDS, Kind, Span
from flctl.errors import SettingsError, UsageError
from flctl.explaining import explained_key, read_table
from flctl.files import read_small
from flctl.values import seconds

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)

FILE = "coordinator.toml"
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Time = Annotated[str, Meta(max_length=20, description="a time in quotation marks")]
Wanted = Annotated[Time | Literal[False], Meta(description="a time in quotation marks, or false")]
"""A time, or false for an alert that is not wanted."""
ONE_LINE = r"^[^\x00-\x1f\x7f]+\Z"


class WebhookSettings(Struct, frozen=True, forbid_unknown_fields=True):
    url: Annotated[str, Meta(
        max_length=2000, pattern=r"^[\x21-\x7e]+\Z", examples=["https://alerts.example/hook"],
        description="an address in quotation marks, without spaces",
    )]  # fmt: skip
    secret_file: Annotated[str, Meta(min_length=1)] | None = None
    """File with the secret; None: the request carries none."""
    auth: Literal["hmac", "bearer"] = "hmac"
    """Sign the body with the secret, or send it as a bearer token."""
    ca_file: Annotated[str, Meta(min_length=1)] | None = None
    """Certificates to trust in addition to the system's own."""
    timeout: Time = "10s"

    @property
    def target(self) -> SplitResult:
        """Raises SettingsError."""
        try:
            found = urlsplit(self.url)
            port = found.port
        except ValueError as error:
            raise SettingsError(f"webhook.url: {error}") from error
        if found.scheme not in ("http", "https") or not found.hostname or port == 0:
            raise SettingsError("webhook.url: write https://HOST/PATH or http://HOST/PATH")
        if found.username is not None or found.fragment:
            raise SettingsError("webhook.url: no user and no '#': put the secret into secret_file")
        if found.scheme == "http" and self.auth == "bearer" and found.hostname not in LOOPBACK:
            raise SettingsError('webhook.url: with auth = "bearer" it has to begin with https://')
        return found


class CommandSettings(Struct, frozen=True, forbid_unknown_fields=True):
    run: Annotated[
        tuple[Annotated[str, Meta(max_length=4000, pattern=ONE_LINE)], ...],
        Meta(min_length=1, max_length=100, examples=[["/usr/local/bin/page", "{text}"]],
             description="a list of the program and its arguments, each in quotation marks"),
    ]  # fmt: skip
    """Program and arguments, started without a shell."""
    timeout: Time = "30s"


class AlertSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How long each condition has to last, or false; and where notices go."""

    agent_lost: Wanted = "10m"
    throttled: Wanted = "1m"
    undervoltage: Wanted = "0s"
    card_full: Wanted = "1m"
    no_round: Wanted = "1h"
    conflict: Wanted = "0s"
    open_token: Wanted = "0s"
    card_free_mb: Annotated[float, Meta(ge=0, le=1e9)] = 500.0
    """A card is nearly full with less room than this,"""
    card_free_percent: Annotated[float, Meta(ge=0, le=100)] = 5.0
    """or with less than this of its size."""
    resolved_after: Time = "2m"
    """How long throttling, low voltage, a full card or a conflict have to be over."""
    webhook: WebhookSettings | None = None
    command: CommandSettings | None = None

    @property
    def spans(self) -> dict[Kind, Span]:
        """Those that are wanted. Raises UsageError."""
        over_s = seconds(self.resolved_after, "resolved_after")
        steady = ("agent_lost", "no_round", "open_token")
        return {
            kind: Span(seconds(after, kind), 0.0 if kind in steady else over_s)
            for kind in KINDS
            if (after := getattr(self, kind)) is not False
        }


class CoordinatorSettings(Struct, frozen=True, forbid_unknown_fields=True):
    alerts: AlertSettings = AlertSettings()


def settings_of(state: Path, given: Path | None) -> CoordinatorSettings:
    """From the file that was given, else from the one in the state folder, if it is there. Raises
    SettingsError."""
    path = given or state / FILE
    if not given and not path.exists():
        logger.debug("no %s: alerts are listed, and sent nowhere", path)
        return CoordinatorSettings()
    found = read_settings(path)
    webhook, command = found.alerts.webhook, found.alerts.command
    sinks = [f"to the webhook at {webhook.target.hostname}"] if webhook else []
    sinks += [f"to the command {command.run[0]}"] if command else []
    logger.info("read %s: alerts are sent %s", path, " and ".join(sinks) or "nowhere")
    return found


def read_settings(path: Path) -> CoordinatorSettings:
    """Paths in it are relative to its folder. Raises SettingsError that names file and key."""
    table, _ = read_table(path, CoordinatorSettings, "the coordinator's")
    try:
        found = msgspec.convert(table, CoordinatorSettings)
        return CoordinatorSettings(_checked(found.alerts, path.parent))
    except msgspec.ValidationError as error:
        why = explained_key(error, CoordinatorSettings, {})
        raise SettingsError(f"{path}: {why}") from error
    except UsageError as error:
        raise SettingsError(f"{path}: alerts.{error}") from error


def _checked(alerts: AlertSettings, beside: Path) -> AlertSettings:
    _ = alerts.spans
    webhook, command = alerts.webhook, alerts.command
    if webhook is not None:
        _ = webhook.target
        _timeout(webhook.timeout, "webhook.timeout")
        webhook = msgspec.structs.replace(
            webhook,
            secret_file=_beside(webhook.secret_file, beside),
            ca_file=_beside(webhook.ca_file, beside),
        )
        if webhook.auth == "bearer" and webhook.secret_file is None:
            raise SettingsError('webhook.auth = "bearer" requires secret_file')
        read_secret(webhook)
        tls(webhook)
    if command is not None:
        _timeout(command.timeout, "command.timeout")
        if shutil.which(command.run[0]) is None:
            raise SettingsError(f"command.run: there is no program {command.run[0]}")
    return msgspec.structs.replace(alerts, webhook=webhook)


def _beside(path: str | None, folder: Path) -> str | None:
    return None if path is None else str(folder / Path(path).expanduser())


def _timeout(text: str, key: str) -> None:
    if not 0.1 <= seconds(text, key) <= 300:
        raise SettingsError(f"{key} {text}: from 0.1s to 5m")


def read_secret(webhook: WebhookSettings) -> bytes:
    """Empty without a file. Raises SettingsError, which never quotes it."""
    if webhook.secret_file is None:
        return b""
    try:
        secret = read_small(Path(webhook.secret_file), 4096).strip()
    except OSError as error:
        why = error.strerror or error
        raise SettingsError(f"webhook.secret_file {webhook.secret_file}: {why}") from error
    if not secret or any(not 0x21 <= byte <= 0x7E for byte in secret):
        raise SettingsError(
            f"webhook.secret_file {webhook.secret_file}: it needs one word of printable ASCII"
        )
    return secret


def tls(webhook: WebhookSettings) -> "ssl.SSLContext | None":
    """Verifies the server's certificate and name. Raises SettingsError."""
    if webhook.target.scheme != "https":
        return None
    import ssl

    context = ssl.create_default_context()
    if webhook.ca_file is not None:
        try:
            context.load_verify_locations(cafile=webhook.ca_file)
        except OSError as error:  # ssl.SSLError too
            raise SettingsError(f"webhook.ca_file {webhook.ca_file}: {error}") from error
    return context
