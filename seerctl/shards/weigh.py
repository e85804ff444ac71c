"""Sample weights as a column of the samples themselves, so that they travel with the shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from seerctl.errors import InputError
from seerctl.stream.records import Record, encode_sample
from seerctl.weighting import read_weights

COLUMN = "weight"


class Weigher:
    """Gives each sample the column `weight` of its key; 40 bytes a weight in memory."""

    def __init__(self, path: Path) -> None:
        """Read the weights in `path`.

        Raises:
            UsageError: not a format of weights.
            InputError: see `read_weights`; or a key that stands there twice.
        """
        found = read_weights(path)
        order = np.argsort(found.keys, kind="stable")
        self.path, self._keys, self._weight = path, found.keys[order], found.weight[order]
        twice = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(twice):
            raise InputError(f"{path}: two weights for {self._keys[twice[0]].decode()}", "Keep one of them")

    def __call__(self, record: Record) -> Record:
        """`record` with its weight, which replaces a column of that name.

        Raises:
            InputError: the file has no weight for it.
        """
        key = record.key.encode()
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            raise InputError(
                f"{self.path}: no weight for sample {record.key} ({record.meta['source']})",
                "Make the weights from a set of the same streams",
            )
        columns = {**record.meta["columns"], COLUMN: float(self._weight[place])}
        meta = {**record.meta, "columns": columns}
        raw, _ = encode_sample(record.image, record.ext, meta)
        return replace(record, meta=meta, raw=raw)
