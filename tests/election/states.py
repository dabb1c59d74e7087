"""The table of states in docs/election.md, from `TRANSITIONS`; `pytest tests/election --rewrite` writes it."""

from __future__ import annotations

from safelight.election.bully import ACTIVITIES, TRANSITIONS

BEGIN, END = "<!-- states: begin -->\n", "<!-- states: end -->\n"


def table() -> str:
    lines = ["| state | what the node does | next state, and when |", "|---|---|---|"]
    for phase, transitions in TRANSITIONS.items():
        following = "<br>".join(f"**{to.value}**: {when}" for to, when in transitions.items())
        lines.append(f"| **{phase.value}** | {ACTIVITIES[phase]} | {following} |")
    return "\n".join(lines) + "\n"


def with_table(document: str) -> str:
    """The document with the table of this moment between its markers."""
    before, _, rest = document.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]
