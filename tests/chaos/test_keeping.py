"""Whoever keeps photographs while nodes are killed has them all, each once: see keeping.py."""

import random
from pathlib import Path

import pytest

from tests.chaos.keeping import keep_in_spite_of_it_all

pytestmark = pytest.mark.slow


def test_photographs_kept_while_nodes_are_killed_are_all_there_each_once(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"python -m tests.chaos.keeping --images 30 --kills 12 --seed {seed}")
    keep_in_spite_of_it_all(tmp_path, images=30, kills=12, seed=seed)
