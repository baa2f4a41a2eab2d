"""From a connection to a welcome: joining, the hello, refusals and when to try again.

CONNECTED ─► Join ─► Joined ─► Hello ─► Welcome
             (only with a token, and once)
"""

import logging
import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from flctl.agent.config import AgentConfig
from flctl.agent.state import AgentState
from flctl.errors import AccessError
from flctl.transport.channel import Frame, Link, LinkEvent
from flctl.transport.keypair import shown
from flctl.wire import framing
from flctl.wire.messages import Hello, Join, Joined, Refused, Welcome

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
"""A Hello or Join without an answer is sent again after this time."""
RETRY_S = 1.0
BACK_OFF_S = (1.0, 30.0)
"""First and longest wait before the next try of a key that was refused."""
PROTOCOL_S = 60.0
LOOK_S = 1.5
"""Without a connection for so long, why is found out …"""
LOOK_AGAIN_S = 0.25
UNREACHED_S = (10.0, 3600.0)
"""… and said; the first pause before it is said again, four times as long each time, and the
longest one."""
REFUSED_S = 35.0
"""After a refusal, which is logged separately; longer than the pauses between its tries."""
SAME_NOTICE_S = 600.0
"""A refusal that lasts is logged again after this time."""


class Session:
    """`hello` makes the greeting as it would be now; `public_key` is the agent's own (Z85).

    Times are those of one clock, in seconds. Nothing is sent but Join and Hello.
    """

    def __init__(
        self,
        config: AgentConfig,
        link: Link,
        state: AgentState,
        public_key: str,
        hello: Callable[[], Hello],
    ) -> None:
        self._config = config
        self._link = link
        self._state = state
        self._public_key = public_key
        self._hello = hello
        self.name = state.name or config.name
        """As the coordinator knows it, after the first welcome."""
        self.connected = False
        self.welcomed = False
        new = config.join_token is not None and state.name is None
        self._must_join = new or config.shard_from_coordinator
        self._ask_at = math.inf
        self._reopen_at = math.inf
        self._back_off_s = BACK_OFF_S[0]
        self._said: tuple[str, float] = ("", -math.inf)
        self._alone_since: float | None = None
        """No connection since then; None while there is one, and before the first `tick`."""
        self._look_at = math.inf
        self._unreached_s = UNREACHED_S[0]

    @property
    def next_at(self) -> float:
        """When `tick` has something to do."""
        return min(self._ask_at if self.connected else self._look_at, self._reopen_at)

    def tick(self, now: float) -> None:
        if not self.connected:
            self._look_why(now)
        if now >= self._reopen_at:
            self._reopen_at = math.inf
            self._link.reopen()
        if self.connected and now >= self._ask_at:
            sent = self._link.send(framing.encode(self._question()))
            self._ask_at = now + (ANSWER_S if sent else RETRY_S)

    def _look_why(self, now: float) -> None:
        """Log why there is no connection: after some seconds, then at growing intervals."""
        if self._alone_since is None:
            self._alone_since, self._look_at = now, now + LOOK_S
        if now < self._look_at:
            return
        why = self._link.trouble()
        if why is None:
            self._look_at = now + LOOK_AGAIN_S
            return
        self._look_at = now + self._unreached_s
        self._unreached_s = min(4 * self._unreached_s, UNREACHED_S[1])
        logger.warning(
            "coordinator=%s not reached for %.0f s: %s; this agent keeps trying",
            self._config.coordinator,
            now - self._alone_since,
            why,
        )

    def on_hello_again(self, now: float) -> None:
        """The coordinator has forgotten this session."""
        self.welcomed = False
        self._ask_at = now

    def say_hello(self) -> None:
        """Send a new Hello, because the contents of the last one have changed."""
        if self.connected and not self._must_join:
            self._ask_at = -math.inf

    def owes_hello(self, now: float) -> bool:
        """Whether the coordinator's information about this agent is out of date."""
        return self._ask_at <= now

    def on_link(self, event: LinkEvent, now: float) -> None:
        match event:
            case LinkEvent.CONNECTED:
                self.connected, self.welcomed = True, False
                self._alone_since = None
                self._ask_at, self._reopen_at = now, math.inf
                self._back_off_s = BACK_OFF_S[0]
                logger.info("coordinator=%s connected", self._config.coordinator)
            case LinkEvent.DISCONNECTED:
                if self.connected:
                    logger.warning("coordinator=%s connection lost", self._config.coordinator)
                self.connected = self.welcomed = False
                self._ask_at = math.inf
            case LinkEvent.KEY_REFUSED:
                self._on_key_refused(now)
            case LinkEvent.SERVER_KEY_WRONG:
                self.connected = self.welcomed = False  # the link itself tries again
                self._alone_since, self._look_at = now, now + REFUSED_S
                self._say(
                    f"coordinator={self._config.coordinator} the program that answers there does "
                    "not have this agent's server key: check the address, or use the key that  "
                    "flctl keys list  prints on the coordinator",
                    now,
                )

    def on_welcome(self, message: Welcome) -> None:
        first = not self.welcomed
        self.name, self.welcomed = message.name, True
        self._ask_at = math.inf
        self._said = ("", -math.inf)
        self._unreached_s = UNREACHED_S[0]
        if first:
            logger.info("agent=%s welcome coordinator_version=%s", message.name, message.version)

    def on_joined(self, message: Joined, now: float) -> None:
        """Raises AccessError where the shard that was asked for does not come."""
        if message.name != self._state.name:
            self._state.save_name(message.name)
        self.name, self._must_join = message.name, False
        self._ask_at = now
        logger.info("agent=%s joined shard=%s", message.name, message.shard)
        if self._config.shard_from_coordinator and message.shard is None:
            raise AccessError(
                f"{self._config.coordinator} deals no shards: it is older than this agent; "
                "upgrade it, or give this agent --shard K/N"
            )

    def on_refused(self, message: Refused, now: float) -> None:
        """Try again later. Raises AccessError where only a person can help."""
        self.welcomed = False
        if message.reason == "name" or (message.reason == "token" and not self._waits):
            raise AccessError(
                f"{self._config.coordinator} refused to let this agent join: {message.message}"
            )
        if message.reason == "guest" and self._token():
            self._must_join = True
        self._ask_at = now + max(message.retry_s, RETRY_S)
        self._say(f"agent={self._shown} refused reason={message.reason} {message.message}", now)

    def on_other_protocol(self, frames: Sequence[Frame], now: float) -> None:
        """The coordinator speaks another protocol. Raises MalformedMessage."""
        ours = framing.PROTOCOL
        if framing.Decoder.protocol_of(frames) == framing.NOTICE:
            notice = framing.read_notice(frames)
            oldest, newest, version = notice.oldest, notice.newest, notice.version
        else:
            oldest = newest = framing.Decoder.protocol_of(frames)
            version = "of another protocol"
        age = "too old" if ours < oldest else "too new"
        first = framing.which_first(oldest, ours, self._shown)
        self.welcomed = False
        self._ask_at = now + PROTOCOL_S
        self._say(
            f"agent={self._shown} speaks protocol {ours}, the coordinator (flctl {version}) "
            f"{framing.spoken(oldest, newest)}: this agent is {age}; {first}",
            now,
        )

    def _on_key_refused(self, now: float) -> None:
        """Wait to be enrolled. Raises AccessError where a token was to do that, and no longer can:
        while it is open, any holder is admitted."""
        self.connected = self.welcomed = False
        self._alone_since, self._look_at = now, now + REFUSED_S
        must_join = self._must_join and self._state.name is None
        if must_join and not self._waits and self._config.join_token is not None:
            raise AccessError(
                f"{self._config.coordinator} does not let this agent join: its token is wrong, "
                "has expired or is used up; create a new one with  flctl keys token  there"
            )
        jitter = random.uniform(0.5, 1.0)  # a whole fleet that comes back must not connect at once
        self._reopen_at = now + self._back_off_s * jitter
        self._back_off_s = min(2 * self._back_off_s, BACK_OFF_S[1])
        command = f"flctl keys add {self._shown} {shown(self._public_key)}"
        way = f"to enrol it, run on the coordinator  {command}"
        if must_join and self._waits:
            way = (
                "this agent waits for a shard: all may be dealt, or its token is used up or has "
                "expired; deal more with  flctl keys token --shards N  (Docker Compose: "
                "FLCTL_SHARDS=N docker compose up -d)"
            )
        self._say(
            f"coordinator={self._config.coordinator} this key is not enrolled, or was revoked: "
            f"{way}",
            now,
        )

    def _question(self) -> Hello | Join:
        if not self._must_join:
            return self._hello()
        return Join(
            token=self._token(), name=self._config.name, shard=self._config.shard_from_coordinator
        )

    @property
    def _waits(self) -> bool:
        """For another token, rather than end for want of a good one."""
        return self._config.shard_from_coordinator and self._config.join_token_file is not None

    def _token(self) -> str:
        """Its current value in the file, if that may change."""
        if self._waits and self._config.join_token_file is not None:
            with suppress(OSError, UnicodeDecodeError):
                return self._config.join_token_file.read_text(encoding="ascii").strip()[:200]
        return self._config.join_token or ""

    @property
    def _shown(self) -> str:
        return self.name or "NAME"

    def _say(self, text: str, now: float) -> None:
        """Warn, but of the same thing only now and then."""
        last, at = self._said
        if text != last or now - at >= SAME_NOTICE_S:
            self._said = (text, now)
            logger.warning("%s", text)
