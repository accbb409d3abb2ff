"""`report.html` in a real browser: headless Chromium. REPORT_SCREENSHOTS names a folder for the picture."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from multisite.job.report_page import page
from tests.unit.job.report_example import CONFIGURATION, JOB, TRACKING, report

BROWSER = shutil.which("chromium")
SECONDS = 120


def browse(folder: Path, *arguments: str) -> str:
    """Opens the page; what Chromium prints."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1200,1700", "--virtual-time-budget=2000", *arguments, (folder / "report.html").as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; the test image has one")
def test_a_browser_shows_every_section_and_every_curve(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(JOB, report(), CONFIGURATION, TRACKING), encoding="utf-8")
    shown = browse(tmp_path, "--dump-dom")
    for part in ("Global model on the test set", "Local training", "Participation and partition", "Configuration", "Metrics"):
        assert f"<h2>{part}" in shown
    assert shown.count("</svg>") == 3
    browse(tmp_path, "--screenshot=report.png")
    picture = tmp_path / "report.png"
    assert picture.stat().st_size > 50_000, "an empty page has 10 kB"
    if folder := os.environ.get("REPORT_SCREENSHOTS"):
        shutil.copyfile(picture, Path(folder) / "report.png")
