"""The process beside a Ray actor, `python -m seerctl.sources.outpost`: a pool of one worker, fed by a pipe.

Messages are those of `worker`; the first one is the plan. Ray's own processes hold threads and sockets, which workers
that are forked and killed had better not inherit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from typing import Any, BinaryIO

from seerctl.errors import EnvironmentFault, UsageError
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.pool import Outcome, Pool
from seerctl.sources.transform import Resize, Treatment
from seerctl.sources.where import parse_conditions
from seerctl.sources.worker import FRAME, Limits, unpack_batch


def encode_plan(check: CheckOptions, limits: Limits, treatment: Treatment) -> bytes:
    """What an outpost needs to know, with the directory that relative paths start from."""
    return json.dumps({
        "check": dataclasses.asdict(check),
        "limits": dataclasses.asdict(limits),
        "where": [condition.text for condition in treatment.where],
        "filters": treatment.filters,
        "resize": treatment.resize and dataclasses.asdict(treatment.resize),
        "strip": treatment.strip,
        "directory": os.getcwd(),  # noqa: PTH109
    }).encode()  # fmt: skip


def decode_plan(text: bytes) -> tuple[CheckOptions, Limits, Treatment, str]:
    """The inverse of `encode_plan`."""
    plan: dict[str, Any] = json.loads(text)
    check = CheckOptions(**{**plan["check"], "formats": tuple(plan["check"]["formats"])})
    treatment = Treatment(
        parse_conditions(plan["where"]), tuple(plan["filters"]),
        Resize(**plan["resize"]) if plan["resize"] else None, bool(plan["strip"]),
    )  # fmt: skip
    return check, Limits(**plan["limits"]), treatment, str(plan["directory"])


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer the batches that come from `source` until it ends."""
    length, _ = FRAME.unpack(source.read(FRAME.size))
    check, limits, treatment, directory = decode_plan(source.read(length))
    fault = _enter(directory)
    with Pool(1, check, limits, treatment) as pool:
        while head := source.read(FRAME.size):
            length, size = FRAME.unpack(head)
            items = unpack_batch(source.read(length), source.read(size))
            answer, data = (fault, b"") if fault else _examined(pool, items)
            text = json.dumps(answer).encode()
            sink.write(FRAME.pack(len(text), len(data)) + text + data)
            sink.flush()
            if "sizes" not in answer:  # the pool is of no more use
                return


def _enter(directory: str) -> dict[str, Any]:
    try:
        os.chdir(directory)
    except OSError as error:
        return {"environment": [f"{directory}: {os.strerror(error.errno or 0)} on a Ray node", "Share it among nodes"]}
    return {}


def _examined(pool: Pool, items: list[Item]) -> tuple[dict[str, Any], bytes]:
    try:
        return _answer(items, list(pool.run(items)))
    except UsageError as error:
        return {"usage": [error.message, error.hint]}, b""
    except EnvironmentFault as error:
        return {"environment": [error.message, error.hint]}, b""
    except Exception:
        return {"bug": traceback.format_exc()}, b""


def _answer(items: list[Item], outcomes: list[Outcome]) -> tuple[dict[str, Any], bytes]:
    numbers = {id(item): number for number, item in enumerate(items)}
    rejects = [(numbers[id(item)], reason, detail) for one in outcomes for item, reason, detail in one.rejects]
    parts = ("digests", "prints", "raw")
    data = b"".join(getattr(one, part) for part in parts for one in outcomes)
    return {"sizes": [size for one in outcomes for size in one.sizes], "rejects": rejects}, data


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
