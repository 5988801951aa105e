"""Every step of a call crossed with everything that can go wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import fault_matrix as matrix

DOCUMENT = Path(__file__).parents[2] / "docs" / "fault-matrix.md"


@pytest.mark.forced
@pytest.mark.parametrize(("call", "part"), [*matrix.sections()])
async def test_the_promises_hold(tmp_path: Path, *, call: str, part: str) -> None:
    """
    Nothing is lost, doubled or left, whatever goes wrong.

    Not compared with the document: whether a last retry still comes in time, and the
    call then ends well by itself, may differ from run to run.
    """
    _, broken = await matrix.run(await matrix.cells_of(call, part, tmp_path), tmp_path)

    assert {} == broken


def test_the_document_counts_its_cells() -> None:
    """The head has the numbers of the tables, and the foot those of the grid."""
    text = DOCUMENT.read_text()
    tables = text[text.index("## export: usage") : text.index("## What cannot")]

    assert text.startswith(matrix.head_of(tables))
    assert text.endswith(matrix.foot().removeprefix("# "))


def test_every_combination_is_in_the_grid_or_has_a_reason() -> None:
    """No cell is left out in silence."""
    cells = {(each.call, each.step, each.fault) for each in matrix.network_cells()}

    assert [] == [
        (call, step, fault)
        for call, steps in matrix.STEPS.items()
        for step in steps
        for fault in (*matrix.ANSWERS, *matrix.BODIES, *matrix.WIRE_FAULTS)
        if (call, step, fault) not in cells
        and matrix.impossible(call, step, fault) is None
    ]
