"""docs/balance.md tells what the model says."""

from __future__ import annotations

import pytest
from bench.costs import load
from bench.model import DOCUMENT, MIXES, POLICIES, Mix, result_of, row

from safelight.node.work.balance import report_pause


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_the_table_is_the_models(mix: Mix) -> None:
    found = {policy: result_of(3, policy, mix, load()) for policy in POLICIES}
    assert row(mix.name, 3, found) in DOCUMENT.read_text(), "measure anew: python -m bench.model"


def test_a_leader_hears_a_bounded_number_of_reports_however_many_workers_there_are() -> None:
    stated = 400
    assert f"no more than {stated} such reports a second" in DOCUMENT.read_text().replace("\n", " ")
    assert all((nodes - 1) / report_pause(nodes) <= stated * 1.001 for nodes in range(2, 1000))
