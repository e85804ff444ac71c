"""Copy detection without Copydays: alter your own photographs, then see which originals are found.

python examples/copy_detection.py PHOTOS --out DIR [--originals N] [--model SPEC] [--layer LAYER] [--size PX]

The first N photographs of PHOTOS (by name) become originals, each with copies as Copydays has them: JPEG of quality 75
to 3, crops that keep 80 to 20 % of the picture, and a strong attack (turned, mirrored, darkened, blurred, with a bar
across). As many photographs again learn the whitening, all others are distractors. File numbers are Copydays': 200000
is an original, 200001, 200002, ... are its copies.

The default model has random weights: it shows what the attacks do, not what a trained model can. For SEER's setting:
--model RUN --layer res4:regions3 --size 224.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from seerctl.augment.decode import DecodeError, to_rgb
from seerctl.cli import run
from seerctl.errors import InputError

QUALITIES = (75, 50, 30, 20, 15, 10, 8, 5, 3)
CROPS = (10, 15, 20, 30, 40, 50, 60, 70, 80)  # percent of the area that is cut off


def copies(photo: Image.Image) -> Iterator[tuple[str, Image.Image, int]]:
    """(split, picture, JPEG quality) of every copy of a photograph."""
    for quality in QUALITIES:
        yield f"jpegqual_{quality}", photo, quality
    for share in CROPS:
        side = (1 - share / 100) ** 0.5
        width, height = (max(8, round(side * length)) for length in photo.size)
        left, top = (photo.width - width) // 2, (photo.height - height) // 2
        yield f"crops_{share}", photo.crop((left, top, left + width, top + height)), 90
    yield "strong", strong(photo), 60


def strong(photo: Image.Image) -> Image.Image:
    """A copy that a person still recognises."""
    turned = ImageOps.mirror(photo).rotate(8, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    blurred = ImageEnhance.Brightness(turned).enhance(0.7).filter(ImageFilter.GaussianBlur(photo.width / 150))
    bar = ImageDraw.Draw(blurred)
    bar.rectangle((0, photo.height * 0.42, photo.width, photo.height * 0.55), fill=(240, 240, 240))
    return blurred


def save(picture: Image.Image, path: Path, quality: int) -> None:
    """Write a picture as JPEG, without any metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    path.write_bytes(out.getvalue())


def deal(photos: Path, out: Path, count: int) -> None:
    """Write `original/`, `copies/<split>/`, `learn/` and `distractors/` below `out`."""
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    done = 0
    for path in files:
        try:
            photo = Image.fromarray(to_rgb(path.read_bytes()))
        except DecodeError:
            continue
        number = 200000 + 100 * done
        if done < count:
            save(photo, out / "original" / f"{number}.jpg", 95)
            for place, (split, picture, quality) in enumerate(copies(photo), 1):
                save(picture, out / "copies" / split / f"{number + place}.jpg", quality)
        else:
            save(photo, out / ("learn" if done < 2 * count else "distractors") / f"{number}.jpg", 95)
        done += 1
    if done <= 2 * count:
        raise InputError(f"{photos}: {done} photographs, {2 * count + 1} are needed", "Lower --originals")


def call(*words: object) -> None:
    """Run a command of seerctl; end with its exit code if it fails."""
    code = run([str(word) for word in words])
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--originals", type=int, default=40)
    parser.add_argument("--model", default="torchvision:regnet_y_400mf")
    parser.add_argument("--layer", default="res4:regions3")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--components", type=int, default=1024)
    given = parser.parse_args()
    try:
        deal(given.photos, given.out / "pictures", given.originals)
    except InputError as error:
        sys.exit(str(error))
    parts = {name: given.out / f"{name}.h5" for name in ("original", "copies", "learn", "distractors")}
    for name, features in parts.items():
        stream, shards = given.out / f"{name}.tar", given.out / "shards" / name
        call("ingest", given.out / "pictures" / name, "-o", stream)
        call("shard", stream, "-o", shards)
        call("extract", "--model", given.model, "--layer", given.layer, "--size", given.size, "--data", shards,
             "-o", features)  # fmt: skip
    sets = [option for name in ("original", "copies") for option in ("--data", given.out / "shards" / name)]
    call(
        "probe", "copies", "--test", parts["copies"], "--train", parts["original"], "--whiten", parts["learn"],
        "--distractors", parts["distractors"], "--components", given.components, *sets,
        "-o", given.out / "copies.json", "--rankings", given.out / "rankings.jsonl",
    )  # fmt: skip


if __name__ == "__main__":
    main()
