"""Write the table that quickstart.sh ingests, `path,label,ATTRIBUTE`: scikit-learn's digits or a folder of images.

make_table.py digits OUT_DIR    8x8 digits as PNG files; ATTRIBUTE is `stroke`: thin or thick, by the median ink
make_table.py FOLDER OUT_DIR    FOLDER/<class>/<image>; ATTRIBUTE is `tone`: dark or light, by the median brightness
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from seerctl.augment.decode import DecodeError, to_rgb


def write_digits(folder: Path) -> list[tuple[Path, str, float]]:
    """Scikit-learn's 1,797 handwritten digits as PNG files; (path, label, mean ink 0-1)."""
    digits, rows = load_digits(), []
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC).save(path)
        rows.append((path, str(label), float(image.mean() / 16)))
    return rows


def measure_folder(folder: Path) -> list[tuple[Path, str, float]]:
    """Every file below `folder` as (path, name of its directory, mean brightness 0-1); damaged ones get NaN."""
    rows = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            brightness = float(to_rgb(path.read_bytes()).mean() / 255)
        except (DecodeError, OSError):
            brightness = float("nan")  # ingest will name it among the rejects
        rows.append((path, path.parent.name, brightness))
    return rows


def main(source: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = write_digits(out / "digits") if source == "digits" else measure_folder(Path(source))
    if not rows:
        sys.exit(f"make_table: {source}: no file in it")
    attribute, low, high = ("stroke", "thin", "thick") if source == "digits" else ("tone", "dark", "light")
    middle = np.nanmedian([value for *_, value in rows])
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", attribute])
        for path, label, value in rows:
            writer.writerow([path.resolve(), label, high if value > middle else low])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
