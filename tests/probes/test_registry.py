"""The table of protocols: it says what the functions are, and refuses what they would not understand."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.errors import UsageError
from seerctl.probes.knn import knn
from seerctl.probes.registry import (
    PROTOCOLS,
    check_inputs,
    checked_options,
    protocol,
    resolve,
    run_protocol,
)
from seerctl.probes.task import load_task
from seerctl.typed import convert
from tests.feature_files import pair

SHARED = {"device", "progress", "full"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_table_says_what_the_functions_are(name: str) -> None:
    found = PROTOCOLS[name]
    load, run = (inspect.signature(resolve(entry)).parameters for entry in (found.load, found.run))
    assert set(found.inputs) <= set(load)
    assert ("target" in load) == (found.target is not False)
    for key, option in found.options.items():
        parameter = (load if option.stage == "load" else run)[option.parameter or key]
        assert parameter.default is inspect.Parameter.empty or _same(parameter.default, option.default), key
        assert _same(convert(option.hint, option.default, name, key), option.default)
    # Nothing that the function takes is out of reach of a suite.
    reached = {option.parameter or key for key, option in found.options.items() if option.stage == "run"}
    assert set(list(run)[1:]) - SHARED == reached


def _same(one: Any, two: Any) -> bool:
    return bool(np.array_equal(np.asarray(one, dtype=object), np.asarray(two, dtype=object)))


def test_a_run_is_the_function_s(tmp_path: Path) -> None:
    train, test = pair(tmp_path, classes=6)
    mine = run_protocol("knn", {"train": train, "test": test}, "label", {"k": [5, 7], "temperature": 1}, full=True)
    bare = knn(load_task(train, test, "label"), [5, 7], temperature=1.0)
    assert mine.report == bare.report
    assert mine.scores is not None
    assert mine.scores.shape == (100, 6)


def test_options_are_checked() -> None:
    assert checked_options("knn", {"k": [3]}) == {"k": (3,), "temperature": 0.07, "similarity": "cosine"}
    for name, options, message in (
        ("knnn", {}, "probe: no protocol 'knnn'. Did you mean 'knn'"),
        ("knn", {"temperatur": 1.0}, "knn has no option 'temperatur'. Did you mean 'temperature'"),
        ("knn", {"k": "5"}, "'k' is '5'. It must be a list"),
        ("linear", {"seed": 0.5}, "'seed' is 0.5. It must be int"),
    ):
        with pytest.raises(UsageError) as error:
            checked_options(name, options)
        assert message in str(error.value)


def test_inputs_are_checked() -> None:
    files = {"train": Path("a.h5"), "test": Path("b.h5")}
    check_inputs("knn", files, "label")
    for inputs, target, message in (
        ({"train": Path("a.h5")}, "label", "suite.toml: knn needs 'test'"),
        ({**files, "tests": Path("c.h5")}, "label", "no input 'tests'. Did you mean 'test'"),
        (files, None, "knn needs a target"),
        ({**files, "test": [Path("b.h5")]}, "label", "takes one 'test', not several"),
    ):
        with pytest.raises(UsageError) as error:
            check_inputs("knn", inputs, target, "suite.toml")
        assert message in str(error.value)


def test_metrics() -> None:
    assert protocol("knn").measures("top1_k20")
    assert not protocol("linear").measures("top1_k20")


def test_the_table_itself_imports_no_heavy_library() -> None:
    code = "import sys, seerctl.probes.registry; print([m for m in ('torch', 'numpy', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
