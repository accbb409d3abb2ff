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
from multisite.cifar10.source import SourceError, find_copy, is_given, resolve


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; an empty value means not given, as Compose passes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder with one folder a site")
    parser.add_argument("--sites", type=site_names, required=True, help="comma-separated names")
    parser.add_argument("--alpha", type=number_or_none, default=None, help="Dirichlet concentration; empty divides IID")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=("auto", "cifar10", "synthetic"), default="auto")
    parser.add_argument("--local", type=lambda text: Path(text) if text else None, default=None, help="a copy of CIFAR-10")
    parser.add_argument("--cache", type=Path, default=Path("/cache"), help="where a download is kept")
    parser.add_argument("--limit", type=count_or_none, default=None, help="use N training examples only")
    return parser.parse_args(arguments)


def site_names(text: str) -> list[str]:
    """The names in a comma-separated list; each is a folder's, so none may be a path."""
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names) or any(not name or "/" in name or name.startswith(".") for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different site names")
    return names


def number_or_none(text: str) -> float | None:
    """A number; None for an empty text."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def count_or_none(text: str) -> int | None:
    """A whole number above 0; None for an empty text."""
    if not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def is_current(manifest: dict[str, Any] | None, source: str, real_at_hand: bool, limit: int | None) -> bool:
    """Whether a shard that exists is the one that is asked for.

    A synthetic shard gives way to CIFAR-10 as soon as a copy is at hand, unless synthetic data is what was asked for.
    """
    if manifest is None or manifest.get("limit") != limit:
        return False
    if source == "auto":
        return manifest.get("dataset") == "cifar10" or (manifest.get("dataset") == "synthetic" and not real_at_hand)
    return bool(manifest.get("dataset") == source)


def limited(arrays: Arrays, limit: int | None) -> Arrays:
    """The first `limit` training examples and a fifth as many test examples."""
    if limit is None:
        return arrays
    test = limit // 5
    return Arrays(arrays.train_images[:limit], arrays.train_labels[:limit], arrays.test_images[:test], arrays.test_labels[:test])


def description(partition: Partition, site: str) -> dict[str, Any]:
    """What a manifest says of the division."""
    return {"partition": partition.name, "alpha": partition.alpha, "seed": partition.seed, "sites": partition.sites, "site": site}


def prepare(parsed: argparse.Namespace) -> None:
    """Writes the shards that are missing and prints a line a site.

    Raises:
        SourceError, PartitionError, OSError: it can't be done.
    """
    sites: list[str] = parsed.sites
    partition = Partition(len(sites), parsed.alpha, parsed.seed)
    folders = {site: parsed.out / site / partition.name for site in sites}
    at_hand = is_given(parsed.local) or find_copy(parsed.cache) is not None

    def current(site: str) -> dict[str, Any] | None:
        """The manifest of the site's shard if it is the one that is asked for."""
        manifest = read_manifest(folders[site])
        same = manifest is not None and all(manifest.get(key) == value for key, value in description(partition, site).items())
        return manifest if same and is_current(manifest, parsed.source, at_hand, parsed.limit) else None

    if not all(current(site) for site in sites):
        dataset, everything = resolve(parsed.source, parsed.local, parsed.cache)
        arrays = limited(everything, parsed.limit)
        for site, indices in zip(sites, partition.split(arrays.train_labels), strict=True):
            if (current(site) or {}).get("dataset") == dataset:
                continue  # the sites' shards come from one dataset, and one that is in use stays
            shard = Arrays(arrays.train_images[indices], arrays.train_labels[indices], arrays.test_images, arrays.test_labels)
            write_shard(folders[site], shard, description(partition, site) | {"dataset": dataset, "limit": parsed.limit})
    for site in sites:
        manifest = read_manifest(folders[site])
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
    except PermissionError as error:
        place = error.filename or parsed.out
        print(f"data: {place}: {error.strerror}\n  next: let the container's user (1000) read it: chmod -R a+rX", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"data: {error.filename or parsed.out}: {error.strerror or error}\n  next: free disk space, or check the folder's owner",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
