"""Great Expectations over records: what breaks an expectation stops the stage, with its rows and the mend.

The suites are in `tasks.suites` and `tasks.attack_suites`; this is how they are run. Great Expectations is
imported when the first suite runs (it takes seconds), in memory, without progress bars, files or telemetry.

What is kept of a result names rows and fingerprints, no text and no time: it may go into a cached output.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jpu.data.schemas import fingerprint
from jpu.errors import DataError
from tasks.environment import quiet

_SHOWN = 8
_KEPT = 50


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite.

    Attributes:
        name: What it is called in messages and results, such as `one_placeholder`.
        kind: Class of `great_expectations.expectations`, without its `Expect`.
        what: What is wrong where it fails.
        mend: What to do then.
        arguments: The class's arguments.
    """

    name: str
    kind: str
    what: str
    mend: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """A table to be checked, and where each row is from.

    Attributes:
        where: The file or files, for failures of the whole table.
        places: File and line of each row.
        columns: Column name → one value a row.
    """

    where: str
    places: Sequence[str]
    columns: Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Suite:
    """A named list of expectations; the first that fails is the one that is reported."""

    name: str
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class Result:
    """How one expectation went.

    Attributes:
        suite: Name of the suite.
        name: Name of the expectation.
        kind: Great Expectations' own name of it.
        rows: Rows checked.
        failing: Indices of the rows that fail; empty where it holds, or fails as a whole.
        success: Whether it holds.
    """

    suite: str
    name: str
    kind: str
    rows: int
    failing: tuple[int, ...]
    success: bool

    def as_dict(self, rows: Rows, column: str | None) -> dict[str, Any]:
        """The result without texts: failing places (the first fifty), and fingerprints of their values."""
        kept = self.failing[:_KEPT]
        values = rows.columns.get(column, ()) if column else ()
        return {
            "suite": self.suite,
            "expectation": self.name,
            "type": self.kind,
            "success": self.success,
            "rows": self.rows,
            "failing": len(self.failing),
            "places": [rows.places[index] for index in kept],
            "values": [fingerprint(str(values[index])) for index in kept if values],
        }


def check(suite: Suite, rows: Rows) -> list[dict[str, Any]]:
    """Check a table against a suite.

    Returns:
        One result an expectation, ready for JSON.

    Raises:
        DataError: An expectation fails; names file, rows, expectation and mend.
    """
    results = run_suite(suite, rows)
    for expectation, result in zip(suite.expectations, results, strict=True):
        if not result.success:
            raise _failure(suite, expectation, result, rows)
    return [
        result.as_dict(rows, expectation.arguments.get("column"))
        for expectation, result in zip(suite.expectations, results, strict=True)
    ]


def run_suite(suite: Suite, rows: Rows) -> list[Result]:
    """Run every expectation of a suite, whether or not another one fails; results in the suite's order."""
    gx, context = _great_expectations()
    import pandas

    # Object columns: pandas' own string type would refuse values that are to be found here.
    frame = pandas.DataFrame({name: pandas.Series(list(c), dtype=object) for name, c in rows.columns.items()})
    source = context.data_sources.add_or_update_pandas("records")
    batch = (
        source.add_dataframe_asset(name=suite.name)
        .add_batch_definition_whole_dataframe("all")
        .get_batch(batch_parameters={"dataframe": frame})
    )
    checked = batch.validate(
        gx.ExpectationSuite(
            name=suite.name,
            expectations=[
                getattr(gx.expectations, f"Expect{e.kind}")(**e.arguments, meta={"name": e.name})
                for e in suite.expectations
            ],
        ),
        result_format="COMPLETE",
    )
    # Great Expectations has an order of its own.
    found = {one.expectation_config.meta["name"]: one for one in checked.results}
    return [_result(suite.name, expectation, found[expectation.name], len(frame)) for expectation in suite.expectations]


def _result(suite: str, expectation: Expectation, found: Any, rows: int) -> Result:
    failing = tuple(int(index) for index in found.result.get("unexpected_index_list") or ())
    kind = str(found.expectation_config.type)
    return Result(suite, expectation.name, kind, rows, failing, bool(found.success))


@cache
def _great_expectations() -> tuple[Any, Any]:
    """The library and an in-memory context, both quiet."""
    quiet()
    with warnings.catch_warnings():
        # It imports modules of the standard library that are on their way out.
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return gx, context


def _failure(suite: Suite, expectation: Expectation, result: Result, rows: Rows) -> DataError:
    what = expectation.what
    where = rows.where
    if result.failing:
        where = rows.places[result.failing[0]]
        others = [rows.places[index] for index in result.failing[1:_SHOWN]]
        if others:
            more = len(result.failing) - 1 - len(others)
            what += "; also " + ", ".join(_shortened(others, where)) + (f" and {more} more" if more else "")
    return DataError(
        f"{what} (expectation {suite.name}.{expectation.name})",
        where=where,
        mend=f"{expectation.mend} Nothing was written.",
    )


def _shortened(places: Sequence[str], first: str) -> list[str]:
    """The places without the file's name where it is the first one's."""
    file = first.rpartition(" ")[0].rpartition(" ")[0]
    return [place.removeprefix(file).strip() if file else place for place in places]
