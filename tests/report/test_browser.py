"""The page in a real browser: everything is drawn, at the right place, in both schemes, without a network."""

import json
import os
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace

from trimtab.records import Evidence, Finding, Layer, Metric, Profile, RunRecord, Series, Story, TrainingRecord
from trimtab.report import sample, write_page
from trimtab.watching.sampler import all_measured

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
SPIKE = 7_321
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        reason = "no chromium on PATH: install it (Debian: apt install chromium) to test the page in a browser"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        reason = "no playwright: pip install playwright to test the page in a browser"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page; at the end checks that nothing but the file was asked for and that the console is clean."""
    said, asked, pages = [], [], []

    def open_page(*told, scheme="light", width=1280):
        path = write_page(tmp_path / "report.html", Story(*told))
        assert path.stat().st_size < 2_000_000
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        pages.append((page, path.as_uri()))
        return page

    yield open_page
    assert said == []
    outside = [url for url in asked if not url.startswith("data:") and url not in {uri for _, uri in pages}]
    assert outside == []
    for page, _ in pages:
        page.close()


def drawn(page) -> list[dict]:
    """Every picture of the page: its kind, box, path data, and the natural size of its embedded images once decoded."""
    return page.evaluate("""async () => Promise.all([...document.querySelectorAll("svg.plot")].map(async (svg) => {
        const box = svg.getBoundingClientRect();
        const images = await Promise.all([...svg.querySelectorAll("image")].map(async (image) => {
            const copy = new Image(); copy.src = image.href.baseVal; await copy.decode();
            const at = image.getBoundingClientRect();
            return [copy.naturalWidth, copy.naturalHeight, at.width, at.height];
        }));
        return {kind: svg.dataset.kind, label: svg.getAttribute("aria-label"), width: box.width, height: box.height, images,
                lines: [...svg.querySelectorAll(".series path")].map((path) => path.getAttribute("d"))};
    }))""")


def check_pictures(page, **expected: int) -> None:
    pictures = drawn(page)
    kinds = [picture["kind"] for picture in pictures]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == expected
    for picture in pictures:
        assert picture["width"] > 100 and picture["height"] > 15, picture["label"]
        if picture["kind"] in ("curves", "heatmap"):
            assert picture["lines"], picture["label"]
        for line in picture["lines"]:
            numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", line)]
            assert len(numbers) >= 2 and np.isfinite(numbers).all()
            assert not re.search("nan|inf", line, re.IGNORECASE)
        if picture["kind"] == "heatmap":
            assert len(picture["images"]) == 2  # the map and its scale
            assert all(side > 0 for image in picture["images"] for side in image)


def test_a_treated_run_shows_everything(opened):
    page = opened(sample.run(), sample.findings(), sample.treatment())
    check_pictures(page, curves=5, heatmap=3, trials=5, axis=2)
    assert (
        page.locator("h1")
        .inner_text()
        .startswith("batch_norm(after='linear') raised validation accuracy from 0.11 to 0.94")
    )
    assert page.locator(".finding").count() == 2
    assert page.locator(".code code").first.text_content() == "\n".join(sample.treatment().lines)
    assert page.locator("table.trials th[scope=row]").all_inner_texts()[:2] == [
        "untreated",
        "batch_norm(after='linear')",
    ]
    for link in page.locator("a[href^='#']").all():
        assert page.locator(link.get_attribute("href")).count() == 1


def test_a_comparison_and_a_clean_run_show_theirs(opened):
    check_pictures(opened(sample.run(), (), sample.search()), curves=5, heatmap=3, trials=4, axis=1)
    check_pictures(opened(sample.run(sick=False)), curves=3, heatmap=3)


def test_a_search_shows_its_course_what_decided_and_its_trials(opened):
    tuning = sample.tuning()
    page = opened(sample.run(), (), tuning)
    check_pictures(page, curves=5, heatmap=3, history=1, importances=1, coordinates=1, trials=3, axis=1)
    assert page.locator("h1").inner_text().startswith(f"{tuning.recipe} raised validation accuracy from 0.11 to 0.94")
    assert page.locator("table.attempts th[scope=row]").all_inner_texts()[:2] == ["untreated", tuning.recipe]
    assert page.locator(".space code").all_inner_texts() == list(tuning.search)
    assert page.locator(".code code").first.text_content() == "\n".join(tuning.lines)
    lines = page.locator("svg[data-kind=coordinates]")
    assert lines.locator("[class~=series]").count() == len(tuning.attempts)
    figure = page.locator("figure").filter(has=lines)
    stopped = sum(attempt.status != "ok" for attempt in tuning.attempts)
    assert lines.locator(".series-0").count() == stopped > 0
    figure.get_by_role("button", name="stopped or failed").click()
    assert not any(one.is_visible() for one in lines.locator(".series-0").all())
    assert lines.locator(".series-3").is_visible()
    course = page.locator("svg[data-kind=history]")
    assert (
        course.locator(".series-3 use").count() == sum(attempt.status == "diverged" for attempt in tuning.attempts) > 0
    )


def test_hover_over_a_search_names_the_trial(opened):
    tuning = sample.tuning()
    page = opened(sample.run(), (), tuning)

    def point(kind: str, x: float, y: float) -> str:
        svg = page.locator(f"svg[data-kind={kind}]")
        svg.scroll_into_view_if_needed()
        axis, box = svg.evaluate("svg => ({...svg.dataset, width: svg.viewBox.baseVal.width})"), svg.bounding_box()
        x0, x1, px0, px1, y0, y1, py0, py1 = (float(axis[key]) for key in "x0 x1 px0 px1 y0 y1 py0 py1".split())
        scale = box["width"] / float(axis["width"])
        page.mouse.move(
            box["x"] + (px0 + (x - x0) / (x1 - x0) * (px1 - px0)) * scale,
            box["y"] + (py0 + (y - y0) / (y1 - y0) * (py1 - py0)) * scale,
        )
        return page.locator("#tip").inner_text()

    attempt = tuning.attempts[9]
    said = point("history", 9.2, 0.5)
    assert "trial 9" in said and attempt.recipe in said and f"{attempt.value:.5g}" in said
    assert "diverged" in point("history", next(p.number for p in tuning.attempts if p.status == "diverged"), 0.5)
    said = point("coordinates", len(tuning.axes), 1.0)  # the best result, at the top of the last axis
    assert tuning.recipe in said
    point("coordinates", 1.5, -0.1)
    assert page.locator("#tip").is_hidden()


def test_a_spike_is_drawn_at_its_step(opened):
    page = opened(sample.run(10_000, spike=SPIKE))
    figure = page.locator("figure").filter(has=page.get_by_role("heading", name="Loss", exact=True))
    axis = figure.locator("svg.plot").evaluate("svg => ({...svg.dataset})")
    line = figure.locator(".series-0 path").first.get_attribute("d")
    points = np.array(re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", line), dtype=float)
    assert 300 < len(points) <= 602
    x, _ = points[points[:, 1].argmin()]
    x0, x1, px0, px1 = (float(axis[key]) for key in ("x0", "x1", "px0", "px1"))
    per_pixel = (x1 - x0) / (px1 - px0)
    assert abs(x0 + (x - px0) * per_pixel - SPIKE) < 0.02 * per_pixel  # coordinates carry two digits
    # The same on the screen: the highest point of the line as the browser lays it out.
    seen = figure.locator(".series-0 path").first.evaluate("""path => {
        const matrix = path.getScreenCTM(), step = path.getTotalLength() / 20000; let best = null;
        for (let i = 0; i <= 20000; i++) {
            const point = path.getPointAtLength(i * step).matrixTransform(matrix);
            if (!best || point.y < best.y) best = point;
        }
        return {x: best.x};
    }""")
    box = figure.locator("svg.plot").bounding_box()
    scale = box["width"] / 560
    assert abs(seen["x"] - (box["x"] + (px0 + (SPIKE - x0) / per_pixel) * scale)) < 1


def test_hover_shows_step_and_values(opened):
    page = opened(sample.run(10_000, spike=SPIKE))
    svg = page.locator("figure").filter(has=page.get_by_role("heading", name="Loss", exact=True)).locator("svg.plot")
    svg.scroll_into_view_if_needed()
    axis, box = svg.evaluate("svg => ({...svg.dataset})"), svg.bounding_box()
    x0, x1, px0, px1 = (float(axis[key]) for key in ("x0", "x1", "px0", "px1"))
    page.mouse.move(
        box["x"] + (px0 + (SPIKE - x0) / (x1 - x0) * (px1 - px0)) * box["width"] / 560, box["y"] + box["height"] / 2
    )
    shown = page.locator("#tip").inner_text()
    spike = max(value for value in json.loads(axis["hover"])[0]["values"])
    assert "step 7,321" in shown and f"{spike:.5g}" in shown and "val loss" in shown
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_hover_over_a_heat_map_names_layer_and_step(opened):
    page = opened(sample.run())
    svg = page.locator("svg[data-kind=heatmap]").first
    svg.scroll_into_view_if_needed()
    axis, box = svg.evaluate("svg => ({...svg.dataset})"), svg.bounding_box()
    px0, py1 = float(axis["px0"]), float(axis["py1"])
    scale = box["width"] / 560
    page.mouse.move(box["x"] + (px0 + 1) * scale, box["y"] + (py1 + 3) * scale)
    cell = json.loads(axis["hover"])["cells"][0][0]
    assert page.locator("#tip").inner_text().split("\n")[:2] == ["step 0", "net.0"]
    assert f"{cell:.2e}".replace("e-0", "e-") in page.locator("#tip").inner_text()


def test_the_legend_hides_a_line(opened):
    page = opened(sample.run())
    figure = page.locator("figure").filter(has=page.get_by_role("heading", name="Loss", exact=True))
    figure.get_by_role("button", name="val loss").click()
    assert figure.locator(".series-1").is_hidden() and figure.locator(".series-0").is_visible()
    assert figure.get_by_role("button", name="val loss").get_attribute("aria-pressed") == "false"
    figure.get_by_role("button", name="val loss").click()
    assert figure.locator(".series-1").is_visible()


def test_dark_and_light_differ_and_narrow_pages_do_not_scroll_sideways(opened):
    colours = {}
    for scheme in ("light", "dark"):
        page = opened(sample.run(), sample.findings(), sample.treatment(), [sample.tuning()], scheme=scheme, width=420)
        colours[scheme] = page.evaluate("""() => [getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector('.series-0 path')).stroke]""")
        assert page.evaluate("document.documentElement.scrollWidth") == 420
    assert all(light != dark for light, dark in zip(colours["light"], colours["dark"], strict=True))


def test_names_that_are_code_stay_text(opened):
    odd = "</script><script>console.error('ran')</script><img src=x onerror=console.error(1)>'\"&"
    training = TrainingRecord(
        name=odd, model=odd, steps=2, series={odd: Series(steps=(0, 1), values=(1.0, 2.0))}, notes=(odd,),
        profiles={"activation_std": Profile(names=(odd,), steps=(0,), rows=((1.0,),)), odd: Profile(names=(odd,), steps=(0,), rows=((1.0,),))},
    )  # fmt: skip
    run = RunRecord(
        id=odd,
        subject=odd,
        trainings=(training, replace(training, steps=1)),
        versions={odd: odd},
        error=odd,
        output_tail=odd,
    )
    finding = Finding(problem=odd, severity="info", where=odd, title=odd, cause=odd, source=odd, remedies=(odd,),
                      evidence=(Evidence(text=odd, numbers={odd: 1.0}, shows=(odd,)),))  # fmt: skip
    page = opened(run, [finding])
    assert page.locator("script").count() == 1 and page.locator("img").count() == 0
    assert page.locator(".finding h3").inner_text() == odd
    check_pictures(page, curves=2, heatmap=4)


WORD = "w" * 1000


def test_a_long_word_makes_no_page_wider_than_the_screen(opened):
    run, (worst, _), treated = sample.run(100), sample.findings(), sample.treatment()
    layers = (Layer(name=WORD, kind=WORD),)
    training = replace(run.main, name=WORD, model=WORD, optimizers=(WORD,), notes=(WORD,), facts={WORD: 1.0}, layers=layers,
                       series=run.main.series | {WORD: run.main.series["loss"]})  # fmt: skip
    run = replace(run, id=WORD, subject=WORD, error=WORD, output_tail=WORD, versions={WORD: WORD}, applied=(WORD,),
                  trainings=(training, replace(training, steps=1)), metric=Metric(name=WORD, goal="max", why=WORD))  # fmt: skip
    finding = replace(worst, problem=WORD, where=WORD, title=WORD, cause=WORD, source=WORD, remedies=(WORD,), training=WORD,
                      evidence=(Evidence(text=WORD, numbers={WORD: 1.0}, shows=("loss",)),))  # fmt: skip

    def worded(comparison):
        arms = tuple(replace(arm, recipe=WORD, remarks=(WORD,)) for arm in comparison.arms)
        return replace(comparison, metric=Metric(name=WORD, goal="max", why=WORD), arms=arms, remarks=(WORD,))

    treatment = replace(treated, findings=(finding,), recipe=WORD, lines=(WORD,), remarks=(WORD,), search=worded(treated.search),
                        confirmation=worded(treated.confirmation))  # fmt: skip
    tuning = sample.tuning()
    attempts = tuple(replace(attempt, recipe=WORD) for attempt in tuning.attempts)
    tuning = replace(
        tuning,
        search=(WORD,),
        attempts=attempts,
        recipe=WORD,
        remarks=(WORD,),
        confirmation=worded(tuning.confirmation),
    )
    for width, tried in ((420, treatment), (420, worded(sample.search())), (420, tuning), (1280, treatment)):
        page = opened(run, [finding], tried, [sample.search()], width=width)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_what_was_tried_before_stands_further_down(opened):
    page = opened(sample.run(), (), sample.treatment(), [sample.search(), sample.tuning()])
    assert page.locator("h1").inner_text().startswith("batch_norm(after='linear') raised validation accuracy from 0.11")
    titles = page.locator("h3.over").all_inner_texts()
    assert titles == ["Confirmation on fresh seeds", "Search: what was tried", "Earlier: comparison", "Earlier: tuning"]
    assert page.locator("p", has_text="learning_rate(lr=0.185), batch_norm raised").count() == 1


def test_trainings_have_headings_and_facts_read(opened):
    training = replace(sample.run(50).main, name="training 1", facts={"first_nonfinite_loss": 3.0})
    run = replace(sample.run(), trainings=(training, replace(training, name="training 2", steps=1)))
    finding = replace(sample.findings()[0], training="training 1",
                      evidence=(Evidence(text="It hardly learned.", numbers={"learned": -np.inf, "p": np.nan, "steps": 3.0}),))  # fmt: skip
    page = opened(run, [finding])
    headings = page.locator("#trainings h2").all_inner_texts()
    assert headings == ["Training 1", "Training 2"]
    assert page.locator(".chip").all_inner_texts() == ["steps 3"]  # and none of "learned -inf"
    assert page.locator("th", has_text="first nonfinite loss").count() == 2


def test_a_run_of_three_thousand_layers_stays_small(opened, tmp_path):
    random = np.random.default_rng(0)
    names = tuple(f"model.encoder.layers.{i}.mlp.dense" for i in range(3000))
    layers = tuple(Layer(name=name, kind="Linear", parameters=(f"{name}.weight",)) for name in names)
    weights = tuple(f"{name}.weight" for name in names)
    profiles = {}
    declared = [one for one in all_measured() if one.of in ("layer", "parameter")]
    for measured in declared:
        name = measured.name
        table = random.random((20, 3000)) if measured.share else np.exp(random.standard_normal((20, 3000)) * 3)
        columns = names if name.startswith(("activation", "dead")) else weights
        profiles[name] = Profile(names=columns, steps=tuple(range(20)), rows=tuple(map(tuple, table.tolist())))
    loss = sample.series(random.random(5_000))
    series = {name: loss for name in ("val loss", *(one.name for one in all_measured() if one.of == "run"))}
    training = TrainingRecord(
        name="training", model="Net", steps=5_000, layers=layers, series=series, profiles=profiles
    )
    page = opened(RunRecord(id="r", subject="large.py", trainings=(training,), measured=all_measured()))
    assert (tmp_path / "report.html").stat().st_size < 1_500_000
    assert page.locator("svg[data-kind=heatmap]").count() == len(declared)


def test_a_run_with_many_long_trainings_stays_small(opened):
    random = np.random.default_rng(0)
    names = tuple(f"encoder.layers.{i}.mlp.dense" for i in range(200))
    rows = tuple(tuple(row) for row in np.exp(random.standard_normal((400, 200)) * 3).tolist())
    profile = Profile(names=names, steps=tuple(range(400)), rows=rows)
    loss = sample.series(random.random(20_000))
    training = TrainingRecord(name="fold", model="Net", steps=20_000, series={"loss": loss, "val loss": loss},
                              profiles={"activation_std": profile, "dead_units": profile, "grad_norms": profile})  # fmt: skip
    run = RunRecord(id="r", subject="folds.py", trainings=tuple(replace(training, name=f"fold {i}") for i in range(20)))
    page = opened(run)
    assert page.locator("h2", has_text="Training fold").count() == 20
    assert page.locator(".absent", has_text="Not drawn, to keep this page small").count() > 0
    assert page.locator("svg.plot").count() >= 8
