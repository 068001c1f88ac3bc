"""The pages in a real browser, as people use them."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from bad_photos import encoded
from dots import DotModel, dots
from PIL import Image
from servers import at_port

from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-some-length"
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True}
DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  return transfer;
}"""


@pytest.fixture(scope="module")
def real(real_index, lite) -> Iterator[str]:
    """The address of a server over six real photos."""
    service = Service(SharedIndex(real_index.path, extractor=lite), ServeSettings())
    with at_port(make_app(service)) as address:
        yield address


@pytest.fixture(scope="module")
def dotted(stock, dot_model_folder, tmp_path_factory) -> Iterator[str]:
    """The address of a server over sixty photos of dots, behind a token."""
    shared = SharedIndex(stock / "i", extractor=DotModel(dot_model_folder))
    saved = tmp_path_factory.mktemp("saved") / "s.sqlite"
    with at_port(make_app(Service(shared, ServeSettings(token=TOKEN, saved=saved)))) as address:
        yield address


@pytest.fixture(scope="module")
def cat(tmp_path_factory) -> Path:
    """A photo of a part of a photo in the index."""
    path = tmp_path_factory.mktemp("cat") / "my cat.jpg"
    path.write_bytes(encoded(skimage.data.chelsea()[20:280, 60:420]))
    return path


def drop(page: Any, path: Path) -> None:
    data = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(DROP, [data, path.name])
    for event in ("dragenter", "dragover", "drop"):
        page.locator("#drop").dispatch_event(event, {"dataTransfer": transfer})


def _fulfil(route: Any, request: Any, **answer: Any) -> None:
    route.fulfill(**answer)


def settled(page: Any) -> None:
    page.locator("#results:not([aria-busy]) .answer").wait_for()


def test_a_dropped_photo_is_found_and_its_matches_are_shown(page, real, cat):
    page.goto(real)
    assert not page.locator("#go").is_visible() and page.locator(".none").is_visible()
    assert page.locator(".examples li").count() == 6
    drop(page, cat)
    settled(page)
    first = page.locator(".hit").first
    assert "Verified" in first.inner_text() and "cat.jpg" in first.inner_text()
    assert "my cat.jpg" in page.locator("#results header").inner_text()
    image = first.locator("img")
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => image.naturalWidth") > 100
    first.locator("button.open").click()
    view = page.locator("#match-view")
    inliers = int(first.locator(".measures").get_attribute("data-inliers"))
    assert view.locator(".matches g").count() == inliers > 16
    assert view.locator("image").count() == 2
    assert f"{inliers} matching points, verified" in page.locator("#match-note").inner_text()
    # Zoomed by the wheel and by keys, and back.
    fitted = view.get_attribute("viewBox")
    view.hover()
    page.mouse.wheel(0, -300)
    page.locator(f"#match-view:not([viewBox='{fitted}'])").wait_for()
    view.press("0")
    assert view.get_attribute("viewBox") == fitted
    view.press("+")
    view.press("ArrowRight")
    x, _, width, _ = map(float, view.get_attribute("viewBox").split())
    assert width < float(fitted.split()[2]) and x > float(fitted.split()[0])
    page.check("#show-outliers")
    page.locator("#match-note", has_text="outlier").filter(has_not_text="Finding").wait_for()
    count = view.locator(".outliers g").count()
    assert count > 0 and f"{count} outlier" in page.locator("#match-note").inner_text()
    page.uncheck("#show-outliers")
    assert not view.locator(".outliers").is_visible()
    # One over the other, by the transform: points lie where they were matched.
    page.check("#modes input[value=overlay]")
    lengths = view.locator(".matches .reach").evaluate_all(
        "paths => paths.map(p => p.getTotalLength())"
    )
    assert len(lengths) == inliers and max(lengths) < 30
    matrix = view.locator("#overlaid").get_attribute("transform")
    assert matrix.startswith("matrix(") and "NaN" not in matrix
    page.fill("#opacity", "20")
    assert view.locator("#overlaid").get_attribute("opacity") == "0.2"
    with page.expect_download() as download:
        page.click("#match-png")
    assert download.value.suggested_filename == "match cat.png"
    with Image.open(download.value.path()) as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    page.check("#modes input[value=blink]")
    view.locator("#overlaid[hidden]").wait_for(state="attached")
    page.check("#modes input[value=side]")
    page.click("#match-next")
    assert page.locator("#match-title").inner_text().startswith("No. 2:")
    page.keyboard.press("Escape")
    assert not page.locator("#match").is_visible()


def test_several_photos_are_one_query_that_back_finds_again(page, real, cat):
    page.goto(real)
    # Rotations would take their time.
    page.eval_on_selector("[name=orientations]", "field => { field.value = '1'; }")
    drop(page, cat)
    settled(page)
    second = page.locator(".hit").nth(1).locator("[data-plus]")
    image_id = second.get_attribute("data-plus")
    with page.expect_response("**/search") as answer:
        second.press("Enter")
    assert answer.value.ok
    page.locator("#results header", has_text="Found by 2 photos together").wait_for()
    assert image_id in page.locator(".extra").inner_text()
    assert image_id not in page.locator(".hit .id").all_inner_texts()
    # Points of a hit are joined with the photo that found it.
    page.locator(".hit button.open").first.click()
    page.locator("#match-view image").nth(1).wait_for()
    page.keyboard.press("Escape")
    page.set_input_files("#minus-images", cat)
    page.locator(".extra", has_text="but not my cat.jpg").wait_for()
    settled(page)
    assert page.locator(".hit.sure").count() == 0
    page.go_back()
    page.locator("#results header", has_text="Found by 2 photos together").wait_for()
    assert page.locator(".extra").count() == 1
    page.locator(".extra button").press("Enter")
    page.locator("#results header").filter(has_not_text="together").wait_for()
    # Photos of the index are in the address.
    page.goto(f"{real}/?id={image_id}&orientations=1")
    settled(page)
    page.locator(".hit [data-minus]").first.click()
    page.wait_for_url("**&minus=*")
    page.reload()
    page.locator(".extra", has_text="but not").wait_for()


def test_a_box_is_drawn_or_typed_searched_for_and_found_by_back(page, real, real_index, cat):
    page.goto(real)
    page.set_input_files("#image", cat)
    settled(page)
    area = page.locator("#photo").bounding_box()
    page.mouse.move(area["x"] + area["width"] * 0.25, area["y"] + area["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.5, area["y"] + area["height"] * 0.6, steps=4)
    page.mouse.move(area["x"] + area["width"] * 0.75, area["y"] + area["height"] * 0.75, steps=4)
    with page.expect_response("**/search") as answer:
        page.mouse.up()
    drawn = [int(page.input_value(f"#box-{name}")) for name in "xywh"]
    wanted = [360 * 0.25, 260 * 0.25, 360 * 0.5, 260 * 0.5]
    assert all(abs(a - b) <= 3 for a, b in zip(drawn, wanted, strict=True))
    assert answer.value.ok
    page.locator("#results header", has_text=f"part {drawn[2]} × {drawn[3]}").wait_for()
    assert page.locator("#frame-light").is_visible()
    # The same by keys alone.
    page.click("#boxing summary")
    for name, value in zip("xywh", (10, 20, 200, 180), strict=True):
        page.locator(f"#box-{name}").fill(str(value))
    page.locator("#box-h").press("Enter")
    page.locator("#results header", has_text="part 200 × 180 at 10, 20").wait_for()
    page.locator(".hit button.open").first.click()
    assert page.locator("#match-view rect.frame-light").count() == 1
    page.keyboard.press("Escape")
    page.click("#whole")
    page.locator("#results header").filter(has_not_text="part").wait_for()
    # A click is no box.
    page.mouse.click(area["x"] + 50, area["y"] + 50)
    assert page.input_value("#box-x") == ""
    # Back leads through the queries, and back to them from another page; the server keeps none.
    page.go_back()
    page.locator("#results header", has_text="part 200 × 180 at 10, 20").wait_for()
    assert page.input_value("#box-w") == "200"
    page.locator(".hit .id a").first.click()
    page.locator(".single").wait_for()
    page.go_back()
    page.locator("#results header", has_text="part 200 × 180 at 10, 20").wait_for()
    assert "my cat.jpg" in page.locator("#chosen").inner_text()
    assert not (real_index.path / "saved_searches.sqlite").exists()


def test_troubles_are_told_and_a_new_photo_mends_them(page, real, cat, tmp_path):
    page.goto(real)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    page.set_input_files("#image", bad)
    page.locator(".error", has_text="not an image").wait_for()
    assert page.locator("#no-preview").is_visible()
    page.route("**/search", lambda route: route.abort("connectionrefused"))
    page.set_input_files("#image", cat)
    page.locator(".error", has_text="does not answer").wait_for()
    page.unroute("**/search")
    # The security middleware answers in plain text, a proxy with a page of its own.
    responses = {
        "text/plain": ("too many requests", "too many"),
        "text/html": ("<h1>x", "status 503"),
    }
    for kind, (body, message) in responses.items():
        fulfil = functools.partial(_fulfil, status=503, content_type=kind, body=body)
        page.route("**/search", fulfil)
        page.click("#go")
        page.locator("#results .error", has_text=message).wait_for()
        assert not page.locator("#results h1").count()
        page.unroute("**/search")
    with bad.open("wb") as file:
        file.truncate(33 << 20)
    page.set_input_files("#image", bad)
    page.locator(".error", has_text="33 MiB; this server takes up to 32 MiB").wait_for()
    page.set_input_files("#image", cat)
    settled(page)
    assert not page.locator(".error").count()


def test_a_search_is_saved_shared_and_deleted(page, dotted, tmp_path):
    page.goto(dotted)
    page.fill("#token", TOKEN)
    # A photo chosen before the page listens would not be searched.
    with page.expect_navigation(wait_until="load"):
        page.keyboard.press("Enter")
    photo = tmp_path / "q.png"
    photo.write_bytes(encoded(dots(3).pixels(), "PNG"))
    page.set_input_files("#image", photo)
    settled(page)
    page.click("#facets summary")
    page.get_by_role("button", name="Wing 0").click()
    page.locator(".chip", has_text="collection: Wing 0").wait_for()
    page.locator("#results:not([aria-busy]) .hits").filter(has_not_text="Wing 1").wait_for()
    page.get_by_role("button", name="Remove this filter").click()
    page.locator(".hits", has_text="Wing 1").wait_for()
    page.click(".save summary")
    page.fill(".save input", "<b>dots</b> & more")
    page.click(".save .button")
    page.get_by_role("heading", name="<b>dots</b> & more").wait_for()
    assert page.locator(".hit").count() == 12
    more = page.locator("button[data-group]").first
    hidden = page.locator(".hit:visible").count()
    more.click()
    assert more.inner_text() == "Show fewer" and page.locator(".hit:visible").count() > hidden
    page.locator("figure img").evaluate("image => image.decode()")
    page.locator("button.open").first.click()
    assert page.locator("#match-view image").count() == 2
    page.locator("#match-view .matches g").first.wait_for(state="attached")
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert b"plain/003.png" in download.value.path().read_bytes()
    page.get_by_role("link", name="Search again").click()
    settled(page)
    assert "q.png" in page.locator("#chosen").inner_text()
    # Several photos are saved together; they are all there again, and after Back.
    other = tmp_path / "other.png"
    other.write_bytes(encoded(dots(5).pixels(), "PNG"))
    page.set_input_files("#minus-images", other)
    page.locator("#results:not([aria-busy]) .hit:not(.sure)").first.wait_for()
    page.click(".save summary")
    page.fill(".save input", "several")
    page.click(".save .button")
    page.locator(".extras", has_text="but not other.png").wait_for()
    page.get_by_role("link", name="Search again").click()
    page.locator("#extras", has_text="but not other.png").wait_for()
    settled(page)
    page.locator(".hit .id a").first.click()
    page.locator(".single").wait_for()
    page.go_back()
    page.locator("#extras", has_text="but not other.png").wait_for()
    settled(page)
    page.goto(f"{dotted}/searches")
    page.get_by_role("button", name="Delete several").click()
    page.get_by_role("button", name="Delete <b>dots</b> & more").click()
    page.get_by_text("Nothing is saved yet").wait_for()


def test_search_with_one_of_the_index(page, real):
    page.goto(f"{real}/browse")
    page.locator(".card", has_text="coins.jpg").get_by_text("Search with this photo").click()
    settled(page)
    assert "coins.jpg" not in page.locator(".hits").inner_text()
    page.locator("#photo").evaluate("image => image.decode()")
    page.locator(".hit").first.get_by_text("More like this").click()
    settled(page)
    assert "id=" in page.url
    page.click("#options summary")
    page.fill("[name=k]", "3")
    page.keyboard.press("Tab")
    page.wait_for_url("**k=3*")
    page.reload()
    settled(page)
    assert page.input_value("[name=k]") == "3" and page.locator(".hit").count() == 3


def test_everything_can_be_done_by_keyboard(page, real, cat):
    page.goto(real)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.set_input_files("#image", cat)
    settled(page)
    page.locator("#go").focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.matches('button.open')"):
            break
    page.keyboard.press("Enter")
    assert page.locator("#match").is_visible()
    assert page.evaluate("() => document.activeElement.id") == "match-view"
    page.keyboard.press("Escape")
    # Back where it came from.
    assert page.evaluate("() => document.activeElement.matches('button.open')")


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_nothing_is_wider_than_a_phone(page, real, cat):
    page.goto(real)
    page.set_input_files("#image", cat)
    settled(page)
    # The query leaves most of the screen to the answer and the hits.
    top = "part => document.querySelector(part).getBoundingClientRect().top / innerHeight"
    assert page.evaluate(top, ".answer") < 0.5 and page.evaluate(top, ".hit") < 0.75
    paths = (
        "/browse",
        "/labels",
        "/batch",
        "/searches",
        "/image?id=cat.jpg",
        "/stats",
        "/failures",
        "/duplicates",
        "/api",
    )
    for path in ("", *paths):
        if path:
            page.goto(real + path)
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= 390, path


def test_behind_a_token_one_browses_filters_and_turns_pages(page, dotted):
    page.goto(f"{dotted}/browse")
    assert not page.get_by_role("navigation").count()
    page.fill("#token", "wrong-token-here")
    page.keyboard.press("Enter")
    page.get_by_text("Wrong token").wait_for()
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url("**/browse")
    assert page.locator(".card").count() == 48
    # The rest comes when one scrolls on.
    page.mouse.wheel(0, 20_000)
    page.wait_for_function("() => document.querySelectorAll('.card').length === 60")
    page.select_option("select[name=label]", "odd")
    page.select_option("select[name=key]", "collection")
    page.fill("input[name=value]", "wing 1")
    page.keyboard.press("Enter")
    page.get_by_text("10 photos").first.wait_for()
    assert page.locator(".card").count() == 10
    page.locator(".card .id a").first.click()
    page.get_by_role("link", name="Search with this photo").wait_for()
    page.locator(".menu summary").click()
    page.get_by_role("link", name="Duplicates").click()
    page.locator("#duplicates .group-of").first.wait_for()
    page.locator(".menu summary").click()
    page.keyboard.press("Escape")
    assert not page.get_by_role("button", name="Sign out").is_visible()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    assert page.goto(f"{dotted}/stats").url.endswith("/login?next=%2Fstats")


@pytest.fixture
def writable(place, dot_model_folder) -> Iterator[str]:
    """The address of a server that may be written."""
    shared = SharedIndex(place, extractor=DotModel(dot_model_folder))
    service = Service(shared, ServeSettings(writable=True))
    with shared.writing() as images:
        images.explore("pca")
    with at_port(make_app(service)) as address:
        yield address


def test_photos_are_marked_edited_removed_added_and_lassoed(page, writable, tmp_path):
    page.goto(f"{writable}/?id=plain/003.png")
    settled(page)
    button = page.locator("[data-mark=same]").first
    button.click()
    page.locator("[data-mark=same][aria-pressed=true]").first.wait_for()
    page.reload()
    settled(page)
    page.locator("[data-mark=same][aria-pressed=true]").first.click()
    page.locator("[data-mark=same][aria-pressed=true]").wait_for(state="detached")
    page.goto(f"{writable}/image?id=plain/005.png")
    page.click("#edit summary")
    page.fill("[name=label]", "<i>new</i>")
    page.fill("#new-key", "room")
    page.fill("#new-value", "12")
    page.get_by_role("button", name="Save").click()
    page.locator(".plate", has_text="<i>new</i>").filter(has_text="room").wait_for()
    page.click("#edit summary")
    page.click("#remove")
    page.click("#undo")
    page.locator("#edit-note", has_text="Restored").wait_for()
    page.goto(f"{writable}/browse")
    page.click("#adding summary")
    for number in (700, 701):
        (tmp_path / f"{number}.png").write_bytes(encoded(dots(number).pixels(), "PNG"))
    (tmp_path / "bad.png").write_bytes(b"x")
    page.set_input_files("#add", [tmp_path / name for name in ("700.png", "bad.png", "701.png")])
    page.locator("#edit-note", has_text="2 of 3 added").wait_for()
    # Many photos at once.
    page.goto(f"{writable}/batch")
    page.set_input_files("#photos", [tmp_path / name for name in ("700.png", "bad.png", "701.png")])
    page.locator("#batch-status", has_text="3 of 3 answered, 1 failed").wait_for()
    rows = page.locator("#batch-rows tr")
    assert "700.png" in rows.nth(0).inner_text() and "not an image" in rows.nth(1).inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert b"701.png" in download.value.path().read_bytes()
    page.reload()
    rows.nth(2).wait_for()
    # The map: zoomed, and photos drawn around.
    page.goto(f"{writable}/map")
    page.locator("#map-note", has_text="60 in view").wait_for()
    page.click("#map-lasso")
    area = page.locator("#map-view").bounding_box()
    corners = (
        (1, 1),
        (area["width"] - 2, 1),
        (area["width"] - 2, area["height"] - 2),
        (1, area["height"] - 2),
    )
    page.mouse.move(area["x"] + 1, area["y"] + 1)
    page.mouse.down()
    for x, y in (*corners, corners[0]):
        page.mouse.move(area["x"] + x, area["y"] + y, steps=3)
    page.mouse.up()
    page.get_by_role("heading", name="60 photos selected").wait_for()
    page.locator("#map-view").press("+")
    page.locator("#map-note", has_not_text="60 in view").wait_for()
