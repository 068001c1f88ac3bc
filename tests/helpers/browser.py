"""Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Set where these tests must run, as in CI.
REQUIRED = "DELG_BROWSER_TESTS"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def find_chromium() -> str:
    """Its path; without one the tests are skipped, or fail where they must run."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        reason = "no Chromium on this machine (apt-get install chromium): the pages are not tried"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@contextmanager
def new_browser(profile: Path) -> Iterator[Any]:
    """A browser whose contexts are new; ``profile`` is a folder of its own."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=list(_FLAGS),
            env={**os.environ, "HOME": str(profile)},
            timeout=240_000,
        )
        yield browser
        browser.close()
