"""The data one-shot: verified examples, partitioned, a shard into each site's folder.

    python -m multisite.cifar10.prepare --out /shards --sites site-1,site-2 [--alpha 0.5] [--seed 0] [--source auto]
        [--local DIR] [--cache DIR] [--limit N]

What is prepared already stays, and costs no import of torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multisite.cifar10.partition import Partition, PartitionError
from multisite.cifar10.shards import Arrays, read_manifest, write_shard
from multisite.cifar10.source import SourceError, find_copy, resolve


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; an empty value means not given, as Compose passes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder with one folder a site")
    parser.add_argument("--sites", required=True, help="comma-separated names")
    parser.add_argument("--alpha", type=lambda text: float(text) if text else None, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=("auto", "cifar10", "synthetic"), default="auto")
    parser.add_argument("--local", type=lambda text: Path(text) if text else None, default=None)
    parser.add_argument("--cache", type=Path, default=Path("/cache"))
    parser.add_argument("--limit", type=lambda text: int(text) if text else None, default=None, help="use N training examples only")
    return parser.parse_args(arguments)


def is_current(manifest: dict[str, Any] | None, source: str, real_at_hand: bool, limit: int | None) -> bool:
    """Whether a shard that exists is the one that is asked for.

    A synthetic shard gives way to CIFAR-10 as soon as a copy is at hand, unless synthetic data is what was asked for.
    """
    if manifest is None or manifest.get("limit") != limit:
        return False
    if source == "auto":
        return manifest["dataset"] == "cifar10" or not real_at_hand
    return bool(manifest["dataset"] == source)


def limited(arrays: Arrays, limit: int | None) -> Arrays:
    """The first `limit` training examples and a fifth as many test examples."""
    if limit is None:
        return arrays
    test = limit // 5
    return Arrays(
        arrays.train_images[:limit], arrays.train_labels[:limit], arrays.test_images[:test], arrays.test_labels[:test]
    )


def prepare(parsed: argparse.Namespace) -> None:
    """Writes the shards that are missing and prints a line a site.

    Raises:
        SourceError, PartitionError, OSError: it can't be done.
    """
    sites = parsed.sites.split(",")
    partition = Partition(len(sites), parsed.alpha, parsed.seed)
    folders = [parsed.out / site / partition.name for site in sites]
    at_hand = any(place and find_copy(place) for place in (parsed.local, parsed.cache))
    if not all(is_current(read_manifest(folder), parsed.source, at_hand, parsed.limit) for folder in folders):
        dataset, everything = resolve(parsed.source, parsed.local, parsed.cache)
        arrays = limited(everything, parsed.limit)
        for site, folder, indices in zip(sites, folders, partition.split(arrays.train_labels), strict=True):
            shard = Arrays(arrays.train_images[indices], arrays.train_labels[indices], arrays.test_images, arrays.test_labels)
            description = {"dataset": dataset, "partition": partition.name, "site": site, "limit": parsed.limit}
            write_shard(folder, shard, description | {"alpha": partition.alpha, "seed": partition.seed, "sites": len(sites)})
    for site, folder in zip(sites, folders, strict=True):
        manifest = read_manifest(folder)
        assert manifest is not None
        name = manifest["dataset"]
        shown = "SYNTHETIC DATA" if name == "synthetic" else name
        print(f"{site}: {manifest['examples']} examples of {shown} ({partition.name}), ready")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command of the one-shot.

    Returns:
        0, or 2 with a message on stderr.
    """
    parsed = parse(arguments)
    try:
        prepare(parsed)
    except (SourceError, PartitionError) as error:
        print(f"data: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"data: {error.filename or parsed.out}: {error.strerror or error}\n  next: free disk space, or check the folder's owner", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
