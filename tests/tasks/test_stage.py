from __future__ import annotations

import pytest

from jpu.errors import BudgetError
from tasks.stage import run_stage


def test_a_stage_that_ends_well_exits_with_zero() -> None:
    ran = []
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda: ran.append(True), argv=[])
    assert (caught.value.code, ran) == (0, [True])


def test_the_round_is_handed_on_as_it_is_named() -> None:
    rounds: list[str] = []
    with pytest.raises(SystemExit):
        run_stage(rounds.append, rounds=True, argv=["--round", "2"])
    assert rounds == ["2"]


def test_an_unrolled_stage_needs_its_round(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda _: None, rounds=True, argv=[])
    assert caught.value.code == 2
    assert "--round" in capsys.readouterr().err


def test_an_error_of_ours_is_a_message_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise BudgetError("too much", where="params.yaml", mend="Ask for less.")

    with pytest.raises(SystemExit) as caught:
        run_stage(main, argv=[])
    assert caught.value.code == 6
    assert capsys.readouterr() == ("", "BudgetError: params.yaml: too much\nAsk for less.\n")


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage(main, argv=[])


def test_ctrl_c_is_no_bug() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_stage(main, argv=[])
    assert caught.value.code == 130
