"""Explore one image name of the vault: every order of the steps of the processes that meet there.

The product's own coroutines run over a model of a store in which each operation that another could notice is one step;
a scheduler of our own sends them the answers. (Writing to a body that nobody sees is no step: a pause there is a pause
before it is finished.) The model is weaker than any real store:

- What is made is *seen* before it is *kept*. A power failure takes any part of what was only seen, and brings back any
  part of what was deleted but not for good, in no order.
- A listing shows a page as it was, however much later it is read; or, where a cast says so, each entry when it is read.
- Where a cast has faults, any one operation fails, done or not; or a create is told that it came second, by itself.

A state is what the store holds and what each actor has been answered, so a coroutine is run again only where a new
answer takes it. Death is not a step: in *every* state all who are not done are taken for dead, with and without a power
failure; those who were not told how their upload went try again, a sweeper runs, and all promises are checked.

`python -m tests.vault.explore` explores every cast and prints how much that was.
"""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from functools import partial
from itertools import product
from typing import Any, NamedTuple
from unittest.mock import patch

from safelight.encryption.keys import ClusterKey, Keyring
from safelight.encryption.sealed import FileSealer, rewrapped
from safelight.encryption.stream import Bytes
from safelight.vault import maintenance
from safelight.vault.chain import Generation
from safelight.vault.records import BODIES, RECORDS, Image, Record, Removed
from safelight.vault.stores.base import Body, Entry, Missing, StoreError
from safelight.vault.vault import AlreadyRemoved, ImageMetadata, NameTaken, UnknownImage, UploadConflict, Vault

USER, NAME = "alice", "photo.png"
OLD, NEW = ClusterKey(b"old key." * 4), ClusterKey(b"new key." * 4)
BEFORE_ROTATION = Keyring("0" * 32, b"a secret" * 4, (OLD,), OLD.id)
AFTER_ROTATION = Keyring("0" * 32, b"a secret" * 4, (OLD, NEW), NEW.id)


class Broken(Exception):
    """A promise of the vault is broken; the message says which, and the steps that led there."""


# -- the model of a store ----------------------------------------------------------------------------


class Trouble(StrEnum):
    """An answer that becomes an exception."""

    MISSING = "missing"
    FAILED = "failed"


class Mark(StrEnum):
    """How far an object is."""

    SEEN = "seen"
    KEPT = "kept"
    GONE = "gone"


class Thing(NamedTuple):
    key: str
    data: bytes
    mark: Mark


Content = tuple[Thing, ...]
"""All that a store holds, by key."""
Answer = bytes | bool | tuple[str, ...] | Trouble | None


class Request(NamedTuple):
    """One step that an actor wants to take."""

    step: str
    key: str = ""
    data: bytes = b""
    start: int = 0
    end: int = 0
    after: str = ""


@types.coroutine
def ask(request: Request) -> Generator[Request, Answer, Any]:
    answer = yield request
    if answer is Trouble.FAILED:
        raise StoreError("the store failed")
    if answer is Trouble.MISSING:
        raise Missing(request.key)
    return answer


class ModelStore:
    def __init__(self, paged: bool) -> None:
        self._paged = paged

    identity = 0

    def guard(self, key: str, data: bytes) -> None:
        pass

    async def room(self) -> None:
        return None

    async def create(self, key: str, data: bytes, *, reserve: bool = False) -> bool:
        made: bool = await ask(Request("link", key, data))
        await ask(Request("sync", key))
        return made

    async def get(self, key: str) -> bytes:
        data: bytes = await ask(Request("read", key, end=sys.maxsize))
        return data

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        return [await self.get(key) for key in keys]

    async def body(self, key: str) -> Body:
        return ModelBody(key)

    async def create_with_body(self, body: Body, key: str, data: bytes) -> bool:
        await body.finish()
        return await self.create(key, data)

    async def size(self, key: str) -> int:
        return len(await self.get(key))

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[Bytes]:
        yield await ask(Request("read", key, start=start, end=end))

    def file(self, key: str) -> None:
        return None

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        if self._paged:
            for key in await ask(Request("list", prefix)):
                yield Entry(key, 0, 0.0)
            return
        key = ""
        while keys := await ask(Request("list", prefix, after=key)):
            key = keys[0]
            yield Entry(key, 0, 0.0)

    async def delete(self, key: str) -> None:
        await ask(Request("unlink", key))
        await ask(Request("sync", key))

    async def ensure_durable(self, key: str) -> None:
        await ask(Request("sync", key))

    async def close(self) -> None:
        pass


class ModelBody:
    def __init__(self, key: str) -> None:
        self._key = key
        self._pieces: list[Bytes] = []

    async def write(self, pieces: Sequence[Bytes]) -> None:
        self._pieces += pieces

    async def finish(self) -> None:
        if not await ask(Request("link", self._key, b"".join(self._pieces))):
            raise StoreError("a random key came twice")
        await ask(Request("sync", self._key))

    async def abandon(self) -> None:
        pass


def outcome_of(content: Content, request: Request, paged: bool) -> tuple[Content, Answer]:
    """What a step makes of the store, and what the actor is answered."""
    key = request.key
    there = next((thing for thing in content if thing.key == key), None)
    visible = there if there and there.mark is not Mark.GONE else None
    match request.step:
        case "link":
            return (content, False) if visible else (_with(content, Thing(key, request.data, Mark.SEEN)), True)
        case "overwrite":  # for mutations only
            return _with(content, Thing(key, request.data, Mark.SEEN)), True
        case "sync" if there and there.mark is Mark.GONE:
            return tuple(thing for thing in content if thing.key != key), None
        case "sync":
            return (_with(content, there._replace(mark=Mark.KEPT)) if there else content), None
        case "unlink":
            return (_with(content, visible._replace(mark=Mark.GONE)) if visible else content), None
        case "read":
            return content, visible.data[request.start : request.end] if visible else Trouble.MISSING
        case "list":
            keys = tuple(
                thing.key
                for thing in content
                if thing.mark is not Mark.GONE and thing.key.startswith(key) and thing.key > request.after
            )
            return content, keys if paged else keys[:1]
        case "rotate":
            return content, any(thing.key.startswith(RECORDS) for thing in content)
    raise ValueError(request.step)


def after_power_failures(content: Content) -> Iterator[Content]:
    """What may be left of the store."""
    unsure = [thing for thing in content if thing.mark is not Mark.KEPT]
    for fate in product((False, True), repeat=len(unsure)):
        lost = {thing.key for thing, stays in zip(unsure, fate, strict=True) if not stays}
        yield tuple(thing._replace(mark=Mark.KEPT) for thing in content if thing.key not in lost)


def _with(content: Content, new: Thing) -> Content:
    return tuple(sorted([*(thing for thing in content if thing.key != new.key), new], key=lambda thing: thing.key))


# -- the actors --------------------------------------------------------------------------------------


class Actor(NamedTuple):
    """Who acts, and what an outcome of it is called. `upload` and `content` are a writer's."""

    name: str
    play: Callable[[Vault, Actor], Coroutine[Request, Answer, str]]
    upload: str = ""
    content: bytes = b""


async def _write(vault: Vault, actor: Actor, *, skip_lookup: bool = False) -> str:
    """As a node does: what `begin` finds is compared with what comes in; who is overtaken begins again, once."""
    for _ in range(2):
        try:
            draft = await vault.begin(USER, NAME, actor.upload, skip_lookup=skip_lookup)
            if isinstance(draft, Image):
                same = await vault.digest(draft) == hashlib.sha256(actor.content).digest()
                return "image" if same else "taken"
            random = _Random(draft.key)
            sealer = FileSealer(USER, vault.keyring(), random=random)
            await draft.body.write([*sealer.update(actor.content), sealer.finish()])
            metadata = ImageMetadata(len(actor.content), "image/png", NAME, None)
            await vault.commit(draft, sealer.header.encode(), metadata)
            return "image"
        except NameTaken:
            return "taken"
        except AlreadyRemoved:
            return "removed before"
        except (UploadConflict, UnknownImage) as error:
            if isinstance(error, UnknownImage) and not isinstance(draft, Image):
                raise  # commit does not say so
    return "overtaken"


async def _write_without_lookup(vault: Vault, actor: Actor) -> str:
    """As a node does with what is small."""
    return await _write(vault, actor, skip_lookup=True)


async def _remove(vault: Vault, actor: Actor) -> str:
    try:
        await vault.remove(USER, NAME)
    except UnknownImage:
        latest = vault.chains._known.get(vault.records.chain(USER, NAME))
        return "removed" if latest and isinstance(vault.read(latest), Removed) else "nothing"
    return "removed"


async def _rewrap(vault: Vault, actor: Actor) -> str:
    """The keyring is rotated as its first step."""
    there = await ask(Request("rotate"))
    async for _ in maintenance.rewrap(vault):
        pass
    return "rewrapped" if there else "nothing"


async def _sweep(vault: Vault, actor: Actor) -> str:
    await maintenance.sweep(vault, grace=0.0)
    return "swept"


RED, BLUE = b"red" * 5, b"blu" * 5
FIRST = Actor("1", _write, "a" * 32, RED)
LEADER = Actor("2", _write, "a" * 32, RED)
FORGER = Actor("3", _write, "a" * 32, BLUE)
OTHER = Actor("4", _write, "b" * 32, RED)
REMOVER, SECOND_REMOVER = Actor("5", _remove), Actor("6", _remove)
REWRAPPER, SECOND_REWRAPPER = Actor("7", _rewrap), Actor("8", _rewrap)
SWEEPER, SECOND_SWEEPER = Actor("9", _sweep), Actor("a", _sweep)


class _Curtain(BaseException):
    """Ends a coroutine that is not needed any more."""


def _end(play: Coroutine[Request, Answer, str]) -> None:
    """`close` does not do with asynchronous generators in the middle; what it does at its end is not heard."""
    with suppress(_Curtain, StopIteration):
        while True:
            play.throw(_Curtain())


class _Random:
    """Bytes that follow from a seed."""

    def __init__(self, seed: str) -> None:
        self._seed, self._drawn = seed.encode(), 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(self._seed + bytes([self._drawn])).digest(size)


class Cast(NamedTuple):
    """Who meets; who came before, one after the other; how many operations fail; how listings are read."""

    actors: tuple[Actor, ...]
    before: tuple[Actor, ...] = ()
    faults: int = 0
    paged: bool = True


def blind(cast: Cast) -> Cast:
    """The same cast, with writers that skip the lookup."""
    blinded = (each._replace(play=_write_without_lookup) if each.play is _write else each for each in cast.actors)
    return cast._replace(actors=tuple(blinded))


KEPT = (FIRST,)
"""An image is there already."""
CASTS = {
    "two uploads": Cast((FIRST, OTHER)),
    "one upload at two leaders": Cast((FIRST, LEADER)),
    "the same at two leaders, 2 faults": Cast((FIRST, LEADER), faults=2),
    "two uploads under one id": Cast((FIRST, FORGER)),
    "two uploads under one id, a remover": Cast((FIRST, FORGER, REMOVER)),
    "an upload, two sweepers": Cast((FIRST, SWEEPER, SECOND_SWEEPER)),
    "an upload, a sweeper who reads its list slowly": Cast((FIRST, SWEEPER), paged=False),
    "an upload, a remover, a sweeper, 2 faults": Cast((FIRST, REMOVER, SWEEPER), faults=2),
    "one upload at two leaders, a remover": Cast((FIRST, LEADER, REMOVER)),
    "one upload at two leaders, a sweeper": Cast((FIRST, LEADER, SWEEPER)),
    "an upload, a rewrap, a sweeper": Cast((FIRST, REWRAPPER, SWEEPER)),
    "two uploads, a rewrap": Cast((FIRST, OTHER, REWRAPPER)),
    "an image, two removers, a sweeper": Cast((REMOVER, SECOND_REMOVER, SWEEPER), KEPT),
    "an image, two rewraps, a sweeper": Cast((REWRAPPER, SECOND_REWRAPPER, SWEEPER), KEPT),
    "an image, a remover, a rewrap, a sweeper": Cast((REMOVER, REWRAPPER, SWEEPER), KEPT),
    "the same, 1 fault": Cast((REMOVER, REWRAPPER, SWEEPER), KEPT, faults=1),
}
"""The suite explores these, in seconds; and again with writers who do not look."""
LARGE = {
    "an upload, a remover, a rewrap, a sweeper": Cast((FIRST, REMOVER, REWRAPPER, SWEEPER)),
    "the same, read slowly": Cast((FIRST, REMOVER, REWRAPPER, SWEEPER), paged=False),
    "an image, its retry, a remover, a rewrap, a sweeper": Cast((LEADER, REMOVER, REWRAPPER, SWEEPER), KEPT),
    "an image, a remover, two rewraps, a sweeper": Cast((REMOVER, REWRAPPER, SECOND_REWRAPPER, SWEEPER), KEPT),
    "one upload at two leaders, a remover, a sweeper": Cast((FIRST, LEADER, REMOVER, SWEEPER)),
    "two uploads under one id, a remover, a sweeper": Cast((FIRST, FORGER, REMOVER, SWEEPER)),
    "two uploads, a remover, a sweeper": Cast((FIRST, OTHER, REMOVER, SWEEPER)),
    "two uploads, one at two leaders, a sweeper": Cast((FIRST, LEADER, OTHER, SWEEPER)),
    "two uploads, a remover, a rewrap, a sweeper": blind(Cast((FIRST, OTHER, REMOVER, REWRAPPER, SWEEPER))),
}
"""These take minutes; the last one, with everybody in it, some seven, and several GB of memory."""


class Moment:
    """An actor after certain answers: what it asks for next, or its outcome."""

    def __init__(self, actor: Actor, answers: tuple[tuple[Answer, bool], ...]) -> None:
        self.actor = actor
        self.answers = answers
        self.request: Request | None = None
        self.outcome = ""
        self.following: dict[tuple[Answer, bool], Moment] = {}


# -- the exploration ---------------------------------------------------------------------------------


class State(NamedTuple):
    content: Content
    moments: tuple[Moment, ...]
    rotated: bool
    faults: int


class Explored(NamedTuple):
    states: int
    interleavings: int
    steps: int
    """Of the longest interleaving."""


class Explorer:
    """Visits every state of one cast. Raises Broken, with the steps that led there."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self._rotated = self._asked_keyring = False
        self._acting = ""
        self._bodies = 0
        self._records = Vault(ModelStore(True), lambda: AFTER_ROTATION)
        self._chain = self._records.records.chain(USER, NAME)
        self._read: dict[tuple[str, bytes], Record] = {}
        self._contents: dict[str, bytes] = {}
        self._outcomes: dict[tuple[int, Request], tuple[Content, Answer]] = {}
        self._checked: set[tuple[object, ...]] = set()
        self._first: dict[Actor, Moment] = {}
        self._seen: dict[tuple[int, ...], tuple[int, int]] = {}
        self._one: dict[Content, Content] = {}  # equal contents are one object, as equal moments are
        self._path: list[tuple[Moment, Answer]] = []

    def explore(self) -> Explored:
        with self._deterministic():
            content = self._one.setdefault((), ())
            told: dict[Actor, str] = {}
            for actor in self._cast.before:
                content, told[actor] = self._run(content, actor, False)
            self._told_before = told
            begin = State(content, tuple(map(self._begin, self._cast.actors)), False, self._cast.faults)
            interleavings, steps = self._visit(begin)
        return Explored(len(self._seen), interleavings, steps)

    def _visit(self, state: State) -> tuple[int, int]:
        """How many ways lead from here to the end, and how long the longest is."""
        key = (id(state.content), *map(id, state.moments), state.rotated, state.faults)
        known = self._seen.get(key)
        if known is not None:
            return known
        self._check(state)
        ways = steps = 0
        for number, moment in enumerate(state.moments):
            if moment.request is None:
                continue
            for content, answer, faults in self._fates(state, moment.request):
                self._path.append((moment, answer))
                rotated = state.rotated or moment.request.step == "rotate"
                moments = list(state.moments)
                moments[number] = self._next(moment, answer, rotated)
                self._nothing_overwritten(state.content, content)
                more, deeper = self._visit(State(content, tuple(moments), rotated, faults))
                ways, steps = ways + more, max(steps, 1 + deeper)
                self._path.pop()
        self._seen[key] = result = (ways or 1, steps)
        return result

    def _fates(self, state: State, request: Request) -> Iterator[tuple[Content, Answer, int]]:
        content, answer = self._step(state.content, request)
        yield content, answer, state.faults
        if state.faults and request.step != "rotate":
            yield content, Trouble.FAILED, state.faults - 1
            if content != state.content:
                yield state.content, Trouble.FAILED, state.faults - 1
                if request.step == "link" and request.key.startswith(RECORDS):
                    yield content, False, state.faults - 1

    def _step(self, content: Content, request: Request) -> tuple[Content, Answer]:
        content = self._one.setdefault(content, content)
        known = self._outcomes.get((id(content), request))
        if known is None:
            after, answer = outcome_of(content, request, self._cast.paged)
            known = self._outcomes[id(content), request] = self._one.setdefault(after, after), answer
        return known

    # -- actors: real coroutines, run again from their beginning for every new answer ------------------

    def _begin(self, actor: Actor) -> Moment:
        if actor not in self._first:
            self._first[actor] = self._played(actor, ())
        return self._first[actor]

    def _next(self, moment: Moment, answer: Answer, rotated: bool) -> Moment:
        following = moment.following.get((answer, rotated))
        if following is None:
            following = self._played(moment.actor, (*moment.answers, (answer, rotated)))
            moment.following[answer, rotated] = following
            if not self._asked_keyring:  # then it makes no difference which there was
                moment.following[answer, not rotated] = following
        return following

    def _played(self, actor: Actor, answers: tuple[tuple[Answer, bool], ...]) -> Moment:
        moment = Moment(actor, answers)
        self._acting, self._bodies, self._rotated = actor.name, 0, False
        play = actor.play(Vault(ModelStore(self._cast.paged), self._keyring, clock=lambda: 0.0), actor)
        try:
            self._asked_keyring = False
            moment.request = play.send(None)
            for answer, self._rotated in answers:
                self._asked_keyring = False
                moment.request = play.send(answer)
        except StopIteration as end:
            moment.request, moment.outcome = None, end.value
        except StoreError:
            moment.request, moment.outcome = None, "failed"
        except Exception as error:
            raise self._broken(f"{actor.play.__name__} raises {error!r}") from error
        else:
            _end(play)
        return moment

    def _run(self, content: Content, actor: Actor, rotated: bool) -> tuple[Content, str]:
        """Alone, to its end."""
        moment = self._begin(actor)
        while moment.request is not None:
            content, answer = self._step(content, moment.request)
            rotated = rotated or moment.request.step == "rotate"
            moment = self._next(moment, answer, rotated)
        return content, moment.outcome

    def _keyring(self) -> Keyring:
        self._asked_keyring = True
        return AFTER_ROTATION if self._rotated else BEFORE_ROTATION

    def _new_body(self, chain: str, number: int) -> str:
        self._bodies += 1
        key = f"{BODIES}{chain.removeprefix(RECORDS)}.{number}.{self._acting:0>15}{self._bodies}"
        self._contents[key] = next(actor.content for actor in self._first_actors() if actor.name == self._acting)
        return key

    def _first_actors(self) -> Iterator[Actor]:
        for actor in (*self._cast.before, *self._cast.actors):
            yield from (actor, _again(actor))

    @contextmanager
    def _deterministic(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(patch("safelight.vault.records.os", types.SimpleNamespace(urandom=bytes)))
            stack.enter_context(patch("safelight.vault.vault.new_body", self._new_body))
            for module in ("vault", "maintenance"):
                stack.enter_context(patch(f"safelight.vault.{module}.rewrapped", partial(rewrapped, random=bytes)))
            yield

    # -- the promises ----------------------------------------------------------------------------------

    def _check(self, state: State) -> None:
        told = self._told_before | {moment.actor: moment.outcome for moment in state.moments}
        outcomes = tuple(told.values())
        if (id(state.content), outcomes, state.rotated) in self._checked:
            return
        self._checked.add((id(state.content), outcomes, state.rotated))
        self._promises(state.content, told, "")
        self._in_the_end(state.content, told, state.rotated, ", if all die here")
        for content in after_power_failures(state.content):
            if (content, outcomes, state.rotated, "power") not in self._checked:
                self._checked.add((content, outcomes, state.rotated, "power"))
                self._promises(content, told, ", if the power fails here")
                self._in_the_end(content, told, state.rotated, ", if the power fails here")

    def _in_the_end(self, content: Content, told: dict[Actor, str], rotated: bool, when: str) -> None:
        """Those who do not know how their upload went try again; then everything is put in order."""
        when += ", in the end"
        told = dict(told)
        for actor, outcome in list(told.items()):
            if actor.upload and outcome in ("", "failed", "overtaken"):
                content, told[_again(actor)] = self._run(content, _again(actor), rotated)
                self._promises(content, told, when)
                if told[_again(actor)] not in ("image", "taken", "removed before"):
                    raise self._broken(f"an upload tried again is {told[_again(actor)]}{when}")
        content, told[_again(SWEEPER)] = self._run(content, _again(SWEEPER), rotated)
        latest = self._promises(content, told, when)
        named = {latest.body} if isinstance(latest, Image) else set()
        bodies = {thing.key for thing in content if thing.key.startswith(BODIES) and thing.mark is not Mark.GONE}
        if left := bodies - named:
            raise self._broken(f"no record names {left}{when}")
        if any(actor.play is _rewrap for actor in self._cast.actors):
            content, told[_again(REWRAPPER)] = self._run(content, _again(REWRAPPER), rotated)
            self._promises(content, told, when)

    def _promises(self, content: Content, told: dict[Actor, str], when: str) -> Record | None:
        """The highest record."""
        there = {thing.key: thing.data for thing in content if thing.mark is not Mark.GONE}
        keys = [f"{self._chain}.{number + 1}" for number in range(sum(key.startswith(RECORDS) for key in there))]
        if missing := [key for key in keys if key not in there]:
            raise self._broken(f"the chain has a gap at {missing}{when}")
        records = [self._record(key, there[key]) for key in keys]
        latest = records[-1] if records else None
        kinds = "".join(type(record).__name__[0] for record in records)
        if kinds.lstrip("A").lstrip("I").lstrip("R") or ("R" in kinds and "I" not in kinds):
            raise self._broken(f"the chain says {kinds}{when}")
        images = [record for record in records if isinstance(record, Image)]
        if len({(image.upload, image.body, image.size) for image in images}) > 1:
            raise self._broken(f"one name has two images{when}")
        if isinstance(latest, Image) and latest.body not in there:
            raise self._broken(f"the image's body was deleted{when}")
        if images and isinstance(latest, Removed) and latest.upload != images[0].upload:
            raise self._broken(f"another upload's image was removed{when}")
        image = images[0] if images else None
        for actor, outcome in told.items():
            ours = image is not None and image.upload == actor.upload
            same = image is not None and self._contents[image.body] == actor.content
            match outcome:
                case "image" if not ours:
                    raise self._broken(f"an acknowledged image is lost{when}")
                case "image" if not same:
                    raise self._broken(f"one image was acknowledged as another{when}")
                case "taken" if ours and same:
                    raise self._broken(f"an upload is told that its own image is another's{when}")
                case "taken" if not image:
                    raise self._broken(f"a name that nobody has is taken{when}")
                case "removed before" if not ours or not isinstance(latest, Removed):
                    raise self._broken(f"an image that is there was called removed{when}")
                case "removed" if not isinstance(latest, Removed):
                    raise self._broken(f"a removed image is there again{when}")
                case "rewrapped" if image and latest is not None:
                    generation = Generation(self._chain, len(records), there[keys[-1]])
                    if isinstance(latest, Image) and maintenance.keys_of(generation, latest) != {NEW.id}:
                        raise self._broken(f"a rewrapped image needs the old key{when}")
        return latest

    def _nothing_overwritten(self, before: Content, after: Content) -> None:
        if before is not after:
            now = {thing.key: thing.data for thing in after}
            if any(now.get(thing.key, thing.data) != thing.data for thing in before):
                raise self._broken("an object was overwritten")

    def _record(self, key: str, data: bytes) -> Record:
        record = self._read.get((key, data))
        if record is None:
            record = self._read[key, data] = self._records.records.read(data, key)
        return record

    def _broken(self, what: str) -> Broken:
        steps = [
            f"{moment.actor.name} {moment.request.step} {moment.request.key} -> {answer!r:.60}"
            for moment, answer in self._path
            if moment.request
        ]
        return Broken("\n  ".join([what, *steps]).replace(self._chain.removeprefix(RECORDS), "…"))


def _again(actor: Actor) -> Actor:
    """The same, later."""
    return actor._replace(name=f"{actor.name}0")


def main() -> None:
    print(f"{'who meets':55}{'states':>10}{'longest':>9}  interleavings")
    for name, cast in (
        CASTS | {f"{name} (without lookup)": blind(cast) for name, cast in CASTS.items()} | LARGE
    ).items():
        states, interleavings, steps = Explorer(cast).explore()
        print(f"{name:55}{states:>10,}{steps:>9}  {interleavings:,}", flush=True)


if __name__ == "__main__":
    main()
