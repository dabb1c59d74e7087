"""What a client does, as text: a line a command, what the machine did about it under `----`, then a blank line.

    servers 3
    grant 3
    ----
      0.000  body -> 3

Commands are the methods below named `do_...`; ` & ` joins what happens at the same time. A line that begins with `#` is
for the reader. `python -m pytest tests/client/test_request_machine.py --rewrite` writes the transcripts again, to be
reviewed as a diff.
"""

from __future__ import annotations

from safelight.client.requests.leader_request_state import (
    BodyDone,
    BodyFailed,
    BodyRefused,
    CancelBody,
    CancelOffers,
    CheckServer,
    Effect,
    Event,
    Fail,
    Report,
    RequestMachine,
    SendBody,
    SendOffer,
    ServerChecked,
    Succeed,
)
from safelight.client.requests.leader_search import OfferFailed, OfferGranted, OfferRefused
from safelight.wire.messages import Grant, Problem, Refusal
from tests.client.machine_world import World
from tests.election.scenario import blocks

DETAILS = {Problem.NOT_THE_LEADER: "Node {} is not the leader", Problem.BUSY: "Node {} is at capacity"}


class Scenario:
    """Carries out commands and collects the transcript. The first command is `servers`."""

    def __init__(self, core: type[RequestMachine] = RequestMachine) -> None:
        self._core = core
        self.lines: list[str] = []
        self._offers: list[int] = []  # one line for those of one time
        self._offered, self._avoiding = 0.0, ""

    def run(self, command: str) -> None:
        name, *words = command.split()
        if (do := getattr(self, f"do_{name}", None)) is not None:
            do(*words)
        else:
            self.world.step(*(getattr(self, f"event_{name}")(*words) for name, *words in _joined(command)))
        self._flush()

    # -- commands ------------------------------------------------------------------------------------

    def do_servers(self, count: str, timeout: str = "30", body_timeout: str = "20") -> None:
        """`servers 3 timeout=30 body_timeout=20`: a request begins; the highest server is the likely leader."""
        limits = [float(word.rpartition("=")[2]) for word in (timeout, body_timeout)]
        self.world = World(int(count), limits[0], limits[1], self._core, self._effect)
        self.world.step()

    def do_advance(self, seconds: str) -> None:
        """`advance 2s`: nothing happens but that time passes: a body in flight is stalled."""
        self.world.advance(float(seconds.removesuffix("s")))

    def do_sending(self, seconds: str) -> None:
        """`sending 5s`: the body's bytes move all this time."""
        self.world.advance(float(seconds.removesuffix("s")), moving=True)

    def do_always(self, *words: str) -> None:
        """`always refuse 1 busy`: what a server answers every offer with from now on, after 10 ms."""
        name, server, *more = words
        self.world.always[int(server)] = getattr(self, f"event_{name}")(server, *more)

    def do_repeat(self, times: str, *words: str) -> None:
        """`repeat 4 grant 3 ; body broken ; advance 1s`"""
        for _ in range(int(times)):
            for command in " ".join(words).split(" ; "):
                self.run(command)

    # -- events --------------------------------------------------------------------------------------

    def event_grant(self, server: str, *more: str) -> Event:
        """`grant 3 epoch=2.3 assigned=1`: server 3 grants the offer, in its epoch 1.3 if none is given."""
        of = dict(word.split("=") for word in more)
        counter, node = of.get("epoch", f"1.{server}").split(".")
        assigned = int(of["assigned"]) if "assigned" in of else None
        return OfferGranted(int(server), Grant(int(node), int(counter), "", "", assigned))

    def event_refuse(self, server: str, problem: str, *more: str) -> Event:
        """`refuse 1 not-the-leader leader=3`"""
        of = dict(word.split("=") for word in more)
        leader = int(of["leader"]) if "leader" in of else None
        return OfferRefused(int(server), _refusal(problem, int(server), leader))

    def event_fail(self, server: str, *reason: str) -> Event:
        """`fail 1 connection refused`: which is final, as nothing else is."""
        return OfferFailed(int(server), " ".join(reason), final=reason == ("connection", "refused"))

    def event_body(self, what: str, *problem: str) -> Event:
        """`body done`, `body broken`, `body refused PROBLEM`"""
        match what:
            case "done":
                return BodyDone()
            case "refused":
                assert self.world.body is not None
                return BodyRefused(_refusal(problem[0], self.world.body.server))
        return BodyFailed("the connection broke")

    def event_check(self, server: str, what: str) -> Event:
        """`check 1 hangs` or `check 1 answers`"""
        return ServerChecked(int(server), what == "hangs")

    # -- the transcript ------------------------------------------------------------------------------

    def _effect(self, effect: Effect) -> None:
        if isinstance(effect, SendOffer):
            avoiding = f", not to be done by {', '.join(map(str, effect.avoid))}" if effect.avoid else ""
            if self._offers and self._offered != self.world.time:
                self._flush()
            self._offers.append(effect.server)
            self._offered, self._avoiding = self.world.time, avoiding
            return
        self._flush()
        match effect:
            case Report("waiting", (reason,)):
                self._line(f"waiting: {reason}")
            case Report(method, arguments):
                self._line(" ".join([method, *(str(each) for each in arguments if each is not None)]))
            case CancelOffers():
                self._line(f"cancel offers to {_list(self.world.offers)}") if self.world.offers else None
            case SendBody(granted):
                self._line(f"body -> {granted.server}")
            case CancelBody():
                self._line("cancel body")
            case CheckServer(server):
                self._line(f"check {server}")
            case Succeed(granted):
                self._line(f"SUCCESS: node {granted.node}")
            case Fail(error):
                self._line(f"FAILURE: {error}")

    def _flush(self) -> None:
        if self._offers:
            offers, self._offers = self._offers, []
            self._line(f"offer -> {_list(offers)}{self._avoiding}", self._offered)

    def _line(self, line: str, time: float | None = None) -> None:
        self.lines.append(f"{self.world.time if time is None else time:7.3f}  {line}")


def rewrite(text: str, core: type[RequestMachine] = RequestMachine) -> str:
    """Carry out a scenario's commands and return it with the transcripts that followed."""
    scenario = Scenario(core)
    out: list[str] = []
    for prose, commands in blocks(text):
        out += prose
        if commands:
            scenario.lines = []
            for command in commands:
                scenario.run(command)
            out += [*commands, "----", *scenario.lines, ""]
    return "\n".join(out).rstrip("\n") + "\n"


def _joined(command: str) -> list[list[str]]:
    return [each.split() for each in command.split(" & ")]


def _list(servers: object) -> str:
    return " ".join(map(str, servers))  # type: ignore[call-overload]


def _refusal(slug: str, node: int, leader: int | None = None) -> Refusal:
    problem = next(each for each in Problem if each.slug == slug)
    detail = DETAILS.get(problem, problem.title).format(node)
    return Refusal(problem, detail, node=node, leader=leader)
