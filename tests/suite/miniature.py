"""Generated pictures in whatever layout an entry of a suite declares: a few of each class, in seconds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from seerctl.suite.spec import DataSet, Entry, Kind
from tests.pictures import draw

CLASSES = ("ant", "bee", "cat")
PER_CLASS = 6
PLACES = ((48.85, 2.35), (40.7, -74.0), (-33.9, 151.2))


def make(entry: Entry, root: Path) -> Path:
    """Every data set and file that `entry` names, below `root`; what is there already stays."""
    for number, (role, data) in enumerate(entry.data_sets()):
        make_set(data, root, seed=1000 * number + 100_000 * (role != "train"))
    for path in entry.files.values():
        _truth(root / path)
    return root


def make_set(data: DataSet, root: Path, seed: int) -> None:
    """One data set in its layout; pictures of a class have a colour in common."""
    place = root / data.path
    if place.exists():
        return
    if data.layout == "table":
        _table(place, data.columns, seed)
        return
    for number in range(PER_CLASS * len(CLASSES)):
        folder = place / CLASSES[number % 3] if data.layout == "folders" else place
        _picture(folder / f"{number:03d}.jpg", number, seed)


def _picture(path: Path, number: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = (0, 90, 180)[number % 3]
    draw(seed + number).point(lambda value: value // 4 + shade).save(path, quality=85)


def _table(path: Path, columns: Mapping[str, Kind], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(PER_CLASS * len(CLASSES)):
        picture = path.parent / path.stem / f"{number:03d}.jpg"
        _picture(picture, number, seed)
        rows.append([picture.relative_to(path.parent), *(_value(kind, number) for kind in columns.values())])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", *columns], *rows])


def _value(kind: Kind, number: int) -> str:
    code = number % 3
    values: dict[Kind, str] = {
        "class": CLASSES[code], "integer": str(code), "number": str(code / 2 + number / 100),
        "text": f"name{number:03d}",
        "classes": json.dumps([CLASSES[code], *([CLASSES[0]] if number % 4 == 0 and code else [])]),
        "latitude": str(PLACES[code][0] + number / 1000), "longitude": str(PLACES[code][1]),
    }  # fmt: skip
    return values[kind]


def _truth(path: Path) -> None:
    """Every query finds the pictures of its class: the first half easily, the rest hard."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"name{number:03d}" for number in range(PER_CLASS * len(CLASSES))]
    same = [[place for place in range(len(names)) if place % 3 == code] for code in range(3)]
    found = [{"easy": places[:3], "hard": places[3:5], "junk": places[5:]} for places in same]
    path.write_text(json.dumps({"imlist": names, "qimlist": names[:3], "gnd": found}))
