"""From what the user named to candidates: which kind of source is each argument, told by content before name.

What opens archives, tables and URLs is imported when there are any: a folder of pictures needs none of it, and loading
all takes as long as looking at fifty of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from seerctl.sources.check import CheckOptions
from seerctl.sources.folder import folder_items
from seerctl.sources.item import Item
from seerctl.sources.options import SourceOptions, named_like_archive
from seerctl.sources.places import STDIN, is_url
from seerctl.sources.shardset import shards_of

if TYPE_CHECKING:
    from seerctl.sources.web.client import Web


def expand(
    arguments: Sequence[str], stdin: BinaryIO | None, options: SourceOptions, check: CheckOptions, web: Web
) -> Iterator[Item]:
    """Every candidate in `arguments`: directories, images, archives, tables, lists, URLs; `-` is `stdin`.

    Pictures on the web are still to be fetched (`Item.url`); archives, tables and lists there are opened.

    Raises:
        InputError: an argument is missing, or an archive or table is damaged.
    """
    for argument in arguments:
        if is_url(argument):
            from seerctl.sources.remote import remote_items  # noqa: PLC0415  (as above)

            yield from remote_items(argument, web, options, check)
        elif argument != STDIN and Path(argument).is_dir():
            yield from _folder_items(Path(argument), options, check)
        else:
            from seerctl.sources.opened import file_items, stdin_items  # noqa: PLC0415  (as above)

            if argument == STDIN:
                assert stdin is not None
                yield from stdin_items(stdin, options, check)
            else:
                yield from file_items(Path(argument), options, check)


def _folder_items(root: Path, options: SourceOptions, check: CheckOptions) -> Iterator[Item]:
    """A shard set in the order of its index; else every file, and what is in the archives among them."""
    shards = shards_of(root)
    if shards is not None:
        from seerctl.sources.opened import file_items  # noqa: PLC0415  (as above)

        for shard in shards:
            yield from file_items(shard, options, check, prefix=shard.name + "/")
        return
    for item in folder_items(root, options.labels):
        if named_like_archive(item.source) and item.verdict is None and Path(item.path).is_file():
            from seerctl.sources.archives import file_members  # noqa: PLC0415  (as above)

            members = file_members(Path(item.path), check, options.labels, item.source + "/")
            if members is not None:
                yield from members
                continue
        yield item
