"""The pages on which people put a collection in order, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from dots import DotModel
from servers import at_port

from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True}
PAGES = ("/trash", "/changes", "/duplicates", "/groups", "/pairs")
# Targets of the content below 24 px.
SMALL = """() => [...document.querySelectorAll("main a, main button, main summary, main select")]
  .map((each) => [each.outerHTML.slice(0, 80), each.getBoundingClientRect()])
  .filter(([, area]) => area.width > 1 && area.height < 23.5 && area.height > 1)
  .map(([text]) => text).filter((text) => !text.includes("/trash") && !text.includes("/changes"))"""


@pytest.fixture(scope="module")
def writable(stock, dot_model_folder, tmp_path_factory) -> Iterator[str]:
    """The address of a server over sixty photos of dots that may be changed."""
    place = shutil.copytree(stock / "i", tmp_path_factory.mktemp("curated") / "i")
    shared = SharedIndex(place, extractor=DotModel(dot_model_folder))
    with at_port(make_app(Service(shared, ServeSettings(writable=True)))) as address:
        yield address


def test_duplicates_are_removed_and_brought_back(page, writable):
    page.goto(f"{writable}/duplicates")
    group = page.locator(".group-of")
    group.wait_for()
    assert group.locator("input[name=ids]:checked").count() == 1
    page.get_by_role("button", name="Remove the ticked").press("Enter")
    page.locator(".decided", has_text="1 photo removed").wait_for()
    page.get_by_role("button", name="Undo").press("Enter")
    page.locator(".decided", has_text="1 photo restored").wait_for()
    page.reload()
    page.get_by_role("button", name="These are no duplicates").click()
    page.locator(".decided", has_text="Ignored").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.locator(".decided", has_text="Listed again").wait_for()


def test_what_was_removed_is_restored_and_undone(page, writable):
    page.goto(f"{writable}/image?id=plain/007.png")
    page.click("#edit summary")
    page.click("#remove")
    page.locator("#undo").wait_for()
    page.goto(f"{writable}/trash")
    box = page.get_by_role("checkbox", name="007.png")
    assert not box.is_checked()
    box.press("Space")
    page.get_by_role("button", name="Restore the ticked photos").press("Enter")
    page.get_by_text("1 photo restored.").wait_for()
    page.goto(f"{writable}/changes")
    page.get_by_role("button", name="Undo: plain/007.png restored").press("Enter")
    page.get_by_text("was undone").wait_for()
    page.goto(f"{writable}/trash")
    page.get_by_text("Empty the trash", exact=True).click()
    page.get_by_role("button", name="Empty the trash for good").click()
    page.get_by_text("The trash was emptied").wait_for()


def test_groups_are_merged_and_split_and_pairs_decided(page, writable):
    page.goto(f"{writable}/groups")
    page.get_by_role("button", name="Compare them now").click()
    page.locator(".hint, .progress").wait_for(state="detached")
    page.locator(".grid .card").get_by_role("link").first.click()
    page.get_by_role("checkbox", name="again.png").check()
    page.get_by_role("button", name="The ticked show something else").click()
    page.get_by_text("1 photo marked as something else").wait_for()
    page.goto(f"{writable}/pairs")
    page.get_by_role("button", name="Compare them").click()
    pair = page.locator(".pair")
    pair.wait_for()
    pair.get_by_role("button", name="Reject").press("Enter")
    pair.locator("[aria-pressed=true]", has_text="Reject").wait_for()
    page.select_option("[name=show]", "rejected")
    page.get_by_role("button", name="Show").click()
    pair.locator("[aria-pressed=true]", has_text="Reject").wait_for()


@pytest.mark.parametrize("page", [PHONE, {**PHONE, "color_scheme": "dark"}], indirect=True)
def test_nothing_is_cut_off_or_too_small_on_a_phone(page, writable):
    for path in PAGES:
        page.goto(writable + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert page.evaluate(SMALL) == [], path
