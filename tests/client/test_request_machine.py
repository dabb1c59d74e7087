"""What a client does about a request goes as the transcripts say, and in every order of events it obeys the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safelight.client.requests.leader_request_state import RequestMachine
from safelight.client.requests.retry_policy import POLICY
from safelight.wire.messages import Problem

from .machine_exploration import Story, explore
from .machine_mutations import MUTATIONS
from .machine_scenario import rewrite
from .machine_world import Violation

DOCUMENT = Path(__file__).parents[2] / "docs" / "retry.md"
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_request_goes_as_written(path: Path, rewrites: bool) -> None:
    written = path.read_text(encoding="utf-8")
    happened = rewrite(written)
    if rewrites:
        path.write_text(happened, encoding="utf-8")
    else:
        assert happened == written, f"read the difference, then rewrite {path.name} with --rewrite"


def test_the_document_has_the_table_of_the_retry_policy(rewrites: bool) -> None:
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition("<!-- retry policy -->\n")
    written, end, after = rest.partition("<!-- end -->")
    assert begin
    assert end
    rows = [
        (
            f"`{problem.slug}`",
            "yes" if policy.offer else "",
            policy.request.value if policy.request else "",
            "yes" if policy.read else "",
            f"{policy.pause:g}" if policy.pause else "",
            "" if policy.others else "left",
        )
        for problem, policy in POLICY.items()
    ]
    table = ["\n| Problem | Offer | Request | Read | Pause | Rest of a batch |\n|---|---|---|---|---|---|\n"]
    table += [re.sub(" +", " ", f"| {' | '.join(row)} |\n") for row in rows]
    happened = "".join([*table, "\n"])
    if rewrites:
        DOCUMENT.write_text(f"{before}{begin}{happened}{end}{after}", encoding="utf-8")
    else:
        assert happened == written, "rewrite docs/retry.md with --rewrite"


STORIES = {
    "elections": Story((Problem.NOT_THE_LEADER, Problem.ENROLMENT_CLOSED), (Problem.BAD_TICKET, Problem.TOO_LARGE)),
    "crowds": Story((Problem.BUSY,), (Problem.BUSY, Problem.OVERTAKEN)),
    "vault and disk": Story((Problem.VAULT_AWAY,), (Problem.VAULT_AWAY, Problem.DISK_FULL)),
    "assignments": Story((), (Problem.INTERNAL,), assigns=True),
}


@pytest.mark.parametrize("story", STORIES)
def test_every_order_of_events_obeys_the_rules(story: str) -> None:
    assert explore(STORIES[story], depth=6) > 1_500


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_exploration_notices(mutation: type[RequestMachine]) -> None:
    with pytest.raises(Violation):
        _explore_all(mutation)


def _explore_all(core: type[RequestMachine]) -> None:
    for story in STORIES.values():
        explore(story, depth=5, core=core)
