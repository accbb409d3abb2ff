"""A startup kit: whose it is, and until when it is valid."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from multisite.federation.kit import Kit, KitError, read_kit
from tests.unit.certificates import ENDED, expired_certificate


def test_an_expired_kit_is_an_error_that_names_who_when_and_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text("{}", encoding="utf-8")
    (tmp_path / "startup" / "client.crt").write_bytes(expired_certificate("site-7", ENDED))
    kit = read_kit(tmp_path)
    assert (kit.role, kit.name, kit.org, kit.expires) == ("client", "site-7", "org", ENDED)
    with pytest.raises(KitError) as expired:
        kit.check_valid()
    assert "the startup kit of site-7 expired on 2024-02-29" in str(expired.value)
    assert "next: `make clean WHAT=keys`, then `make up`" in str(expired.value)


def test_a_kit_is_valid_until_the_second_it_expires() -> None:
    kit = Kit(Path("kit"), "client", "site-1", "org", ENDED)
    kit.check_valid(ENDED - datetime.timedelta(seconds=1))
    with pytest.raises(KitError, match="expired"):
        kit.check_valid(ENDED)


def test_a_missing_kit_is_an_error_that_names_the_folder_and_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=f"no startup kit in {tmp_path}") as missing:
        read_kit(tmp_path)
    assert "next: `make up` provisions one" in str(missing.value)
