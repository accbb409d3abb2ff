"""What a job's configuration gives the controller, checked: whoever holds a submitter's certificate may have written anything there."""

from __future__ import annotations

from multisite.cifar10.manifest import SHAPES
from multisite.text import clean

LONGEST_NAME = 128


def checked_whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number within its bounds.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {clean(repr(value), 60)}")
    return value


def checked_network(network: object) -> str:
    """A network's name, or an empty text where the job has one of its own.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(network, str) or (network and network not in SHAPES):
        raise ValueError(f"network must be one of {', '.join(SHAPES)}, not {clean(repr(network), 60)}")
    return network


def checked_sites(sites: object, count: int) -> list[str]:
    """The names of a job's sites; none where the configuration names none.

    Raises:
        ValueError: they are not `count` different names.
    """
    if not isinstance(sites, (list, tuple)):
        raise ValueError(f"sites must be a list of names, not {clean(repr(sites), 60)}")
    for name in sites:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or clean(name) != name:
            raise ValueError(f"sites must be names of at most {LONGEST_NAME} printable characters, not {clean(repr(name), 60)}")
    if sites and not len(sites) == len(set(sites)) == count:
        raise ValueError(f"sites must be {count} different names, as many as num_clients, not {clean(list(sites), 120)}")
    return list(sites)
