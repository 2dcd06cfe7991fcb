"""The page: what it holds, and that it works when a browser clicks on it."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from tests.report.browser import CHROME, DRIVER, Browser
from tests.report.synthetic import cell, paired, write
from vlaprune_bench.report.build import load
from vlaprune_bench.report.charts import charts, timeline
from vlaprune_bench.report.interactive import plotly
from vlaprune_bench.report.page import write_page
from vlaprune_bench.report.plots import draw
from vlaprune_bench.video import VideoWriter

EVIL = "RuntimeError: </script><script>document.title = 'broken'</script>"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of two suites, three cells, an error and a video, and its page."""
    rng = np.random.default_rng(0)
    suites = ("libero_spatial", "libero_10")
    none = cell("none", None, 0.9, rng, suites=suites, tasks=4, trials=20)
    frames = [none.astype({"success": object})]
    for keep in (0.5, 0.25):
        own = cell("adp", keep, 0.9, rng, suites=suites, tasks=4, trials=20)
        own["pruned_call_fraction"] = 0.6
        own["success"] = paired(none, 0.2, 0.2, rng)
        frames.append(own.astype({"success": object}))
    frames[0].loc[3, ["status", "success", "error"]] = ["error", None, EVIL]
    root = tmp_path_factory.mktemp("site")
    folder = write(root / "runs", pd.concat(frames, ignore_index=True), rng)
    name = f"libero_spatial-task0-trial0-none-{none.episode_id[0]}.mp4"
    (folder / "_videos" / name).write_bytes(b"not a film")
    film(folder, *films(frames))
    text = "# vlaprune-eval --method adp --keep 0.5\nsuite: libero_spatial\ntrials: 20\n"
    (folder / "_runs" / f"{frames[1].run_id[0]}.yaml").write_text(text)
    report = load(folder)
    page = root / "out" / "report.html"
    write_page(report, page, ["a sentence about the folder"])
    return report, page


def films(frames):
    """Episodes of the third cell to film: two lost ones and one that none lost too; and none's."""
    none, own = frames[0], frames[2]
    solved = none.success.isin([True]) & (none.status == "ok")
    lost = own[solved & ~own.success.astype(bool)].index[1:3]
    failed = own[~solved & ~own.success.astype(bool) & (none.status == "ok")].index[:1]
    return none.loc[lost[:1]], own.loc[[*lost, *failed]]


def film(folder, *chosen):
    for frame in chosen:
        for row in frame.itertuples():
            name = f"{row.suite}-task{row.task}-trial{row.trial}-{row.method}-{row.episode_id}.mp4"
            with VideoWriter(folder / "_videos" / name, fps=4, seconds=1) as writer:
                for level in (40, 200):
                    writer.add(np.full((88, 128, 3), level, np.uint8))


def data_of(page):
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found.group(1))


def test_the_page_is_one_file_that_asks_for_nothing(site):
    text = site[1].read_text()
    ours = re.sub(r"<script>/\*.*?plotly\.js.*?</script>", "", text, count=1, flags=re.DOTALL)
    assert len(ours) < 0.2 * len(text)
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", ours)
    assert "http://" not in ours
    assert "https://" not in ours


def test_every_episode_is_in_it_once_with_its_outcome(site):
    report, page = site
    data = data_of(page)
    episodes = report.results.episodes.set_index("episode_id")
    assert sorted(data["id"]) == sorted(episodes.index)
    for k, name in enumerate(data["id"]):
        row = episodes.loc[name]
        assert data["statuses"][data["status"][k]] == row.status
        assert data["success"][k] == (row.status == "ok" and bool(row.success))
    assert list(data["errors"].values()) == [EVIL]
    assert next(iter(data["videos"].values())).startswith("../runs/_videos/libero_spatial-task0")
    marked = sum(value > 0 for value in data["pair"])
    assert marked == sum(len(p.losses) + len(p.gains) for p in report.pairs)


def test_warnings_commands_and_versions_stand_on_it(site):
    text = site[1].read_text()
    for piece in (
        "a sentence about the folder",
        "1 episodes have status error",
        "# vlaprune-eval --method adp --keep 0.5",
        "not in the folder",
        "ratio of its FLOPs, not a timing",
    ):
        assert piece in text


def test_charts_hold_what_the_tables_say(site):
    report, _ = site
    made = {chart.name: chart for chart in charts(report)}
    rows = {row["cell"]: row for row in report.overview.success.rows}
    chart = made["success-flops-average"]
    adp = next(series for series in chart.series if series.name == "adp")
    assert adp.y == pytest.approx([100 * rows[1]["average"].value, 100 * rows[2]["average"].value])
    assert adp.low == pytest.approx([100 * rows[k]["average"].low for k in (1, 2)])
    assert made["tasks-long"].grid[0][0] == pytest.approx(
        100 * next(r for r in report.overview.tasks.rows if r["suite"] == "Long")["c0"].value
    )
    tokens = {series.name: series.y for series in made["tokens"].series}
    assert set(tokens["none"]) == {512.0}
    assert set(tokens["adp 0.5"]) == {512.0, 256.0}
    gate = next(chart for name, chart in made.items() if name.startswith("gate-"))
    assert gate.series[0].y[:7] == [1, 1, 1, 0, 0, 1, 1]
    assert [series.name for series in gate.series] == ["pruned", "end-effector speed"]
    for chart in made.values():
        json.dumps(plotly(chart), allow_nan=True)


def test_speed_is_the_path_of_each_window_over_its_time():
    calls = pd.DataFrame(
        {"step": [0, 8, 16], "pruned": [False, True, False], "eef_displacement": [0.04, 0.2, 0.02]}
    )
    chart = timeline("gate", "an episode", calls, steps=20)
    pruned, speed = chart.series
    assert pruned.x == speed.x == [0, 8, 16, 20]
    assert pruned.y == [0, 1, 0, 0]
    # 4 cm in 8 steps of 50 ms; the last window is cut to 4 steps
    assert speed.y == pytest.approx([10, 50, 10, 10])
    assert (speed.right, chart.right_title) == (True, "speed, cm/s")
    older = timeline("gate", "an episode", calls.assign(eef_displacement=np.nan), steps=20)
    assert [series.name for series in older.series] == ["pruned"]
    assert "yaxis2" not in plotly(older)["layout"]
    assert len(draw(older).axes) == 1
    assert [axes.get_ylabel() for axes in draw(chart).axes][1] == "speed, cm/s"


def test_a_gallery_has_the_lost_ones_with_none_s_film(site):
    data = data_of(site[1])
    assert len(data["videos"]) == 5
    beside = {data["id"][int(k)]: path for k, path in data["beside"].items()}
    ((name, path),) = beside.items()
    pair = site[0].pairs[1].losses.set_index("episode_id").loc[name]
    assert path.endswith(f"-none-{pair.episode_id_none}.mp4")


def test_videos_are_found_when_everything_is_moved(site, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(site[1].parent.parent, moved)
    data = data_of(moved / "out" / site[1].name)
    for path in [*data["videos"].values(), *data["beside"].values()]:
        assert (moved / "out" / path).is_file()


needs_browser = pytest.mark.skipif(
    not (DRIVER and CHROME), reason="needs chromium and chromedriver on the path"
)


@pytest.fixture(scope="module")
def browser(site):
    with Browser() as window:
        window.open(site[1])
        yield window


@needs_browser
def test_it_opens_without_a_complaint_and_draws(browser):
    assert browser.run("return document.title") == "runs – vlaprune report"
    browser.run("document.getElementById('pictures').scrollIntoView()")
    browser.until("return document.querySelectorAll('.plot .main-svg').length > 2")
    assert browser.errors() == []


@needs_browser
def test_a_heading_sorts_and_a_filter_filters(browser):
    column = (
        "[...document.querySelectorAll('#table-success tbody tr')].map(r => r.cells[1].innerText)"
    )
    assert browser.run(f"return {column}") == ["–", "0.5", "0.25"]
    browser.run("document.getElementById('table-success').scrollIntoView({block: 'center'})")
    heading = "#table-success th:nth-child(2) button"
    browser.click(heading)
    assert browser.run(f"return {column}") == ["0.25", "0.5", "–"]
    browser.click(heading)
    assert browser.run(f"return {column}") == ["0.5", "0.25", "–"]
    browser.run("document.getElementById('table-tasks').scrollIntoView({block: 'center'})")
    browser.type("#table-tasks .filter", "long task_2")
    shown = "[...document.querySelectorAll('#table-tasks tbody tr')].filter(r => !r.hidden)"
    assert browser.run(f"return {shown}.map(r => r.cells[2].innerText)") == ["task_2"]


@needs_browser
def test_a_picture_has_variants(browser):
    browser.run("document.getElementById('pictures').scrollIntoView()")
    plot = "document.querySelector('#picture-tasks-spatial .plot')"
    browser.until(f"return {plot}.data && true")
    before = browser.run(f"return {plot}.data[0].z")
    browser.run(
        "const s = document.querySelector('#picture-tasks-spatial select');"
        "s.value = '1'; s.dispatchEvent(new Event('change'))"
    )
    assert browser.run(f"return {plot}.data[0].z") != before


@needs_browser
def test_episodes_are_paged_picked_and_linked(browser, site):
    data = data_of(site[1])
    rows = "document.querySelectorAll('#episode-table tbody tr')"
    browser.run("document.getElementById('next').scrollIntoView({block: 'center'})")
    assert browser.run(f"return {rows}.length") == 100
    browser.click("#next")
    assert browser.run("return document.getElementById('position').innerText") == "101 to 200"
    browser.click("#previous")

    def pick(name, value):
        browser.run(
            f"const s = document.getElementById('{name}'); s.value = '{value}';"
            "s.dispatchEvent(new Event('change'))"
        )
        return browser.run("return document.getElementById('count').innerText")

    lost = data["pair"].count(1)
    assert pick("pick-outcome", "lost") == f"{lost} of 480 episodes"
    assert pick("pick-outcome", "video") == "5 of 480 episodes"
    link = browser.run(f"return {rows}[0].querySelector('a').href")
    assert link.endswith(f"/runs/_videos/libero_spatial-task0-trial0-none-{data['id'][0]}.mp4")
    assert pick("pick-outcome", "error") == "1 of 480 episodes"
    assert EVIL in browser.run(f"return {rows}[0].innerText")
    pick("pick-outcome", "")
    assert pick("pick-cell", "1") == "160 of 480 episodes"
    pick("pick-cell", "")
    browser.run("document.getElementById('search').scrollIntoView({block: 'center'})")
    browser.type("#search", data["id"][7])
    assert browser.run(f"return {rows}.length") == 1


@needs_browser
def test_the_gallery_plays_failures_lost_ones_first(browser, site):
    browser.run("document.getElementById('failures').scrollIntoView()")
    shown = "[...document.querySelectorAll('#films .film')]"
    assert browser.run(f"return {shown}.length") == 3
    counts = browser.run(f"return {shown}.map(f => f.querySelectorAll('video').length)")
    assert sorted(counts) == [1, 1, 2]
    assert counts[2] == 1  # none lost it too
    assert "none solved it" in browser.run(f"return {shown}[{counts.index(2)}].innerText")
    browser.until(f"return {shown}.every(f => f.querySelector('video').videoWidth === 128)")
    browser.run(
        "const s = document.getElementById('film-which'); s.value = 'lost';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert browser.run(f"return {shown}.length") == 2
    assert browser.run("return document.getElementById('film-more').disabled")


@needs_browser
def test_the_theme_switches_and_text_stays_readable(browser):
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    browser.run("window.scrollTo(0, 0)")
    seen = []
    for _ in range(2):
        ground, ink = (luminance(text) for text in browser.run(colours))
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 7
        seen.append(ground)
        browser.click("#theme")
    assert abs(seen[0] - seen[1]) > 0.5


def luminance(colour):
    """Relative luminance of rgb(...), as WCAG defines it."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@needs_browser
def test_a_phone_scrolls_one_way_only(site):
    with Browser(width=500, height=800, dark=True) as phone:
        phone.open(site[1])
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert phone.run(wide) <= 0
        assert phone.run("return document.documentElement.dataset.theme") == "dark"
        phone.run("document.getElementById('pictures').scrollIntoView()")
        phone.until("return document.querySelectorAll('.plot .main-svg').length > 0")
        assert phone.run(wide) <= 0


@needs_browser
def test_paper_is_wide_enough_and_light(site):
    with Browser(dark=True) as window:
        window.open(site[1])
        window.paper(695, 1000)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        window.until(f"return {wide} <= 0")
        assert window.run("return document.documentElement.dataset.theme") == "light"
        assert not window.run("return document.getElementById('failures').offsetParent")
        assert window.run("return document.querySelectorAll('.plot .main-svg').length") > 2
