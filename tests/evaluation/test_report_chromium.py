"""Opens the report in headless Chromium and looks: it renders, fetches nothing, complains of nothing."""

import json
import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

from genrec_jax.evaluation import report
from tests.evaluation import report_run, tiny_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--window-size=1200,1600",
)
WIDTH = 1200

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH; `apt-get install chromium` brings it"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    dataset = tiny_run.make_dataset(folder, num_users=80)
    run = report_run.make_reported_run(folder / "quickstart", dataset)
    return report.write_report([run.path], folder / "report.html")


def open_in_chromium(page, *flags: str) -> subprocess.CompletedProcess:
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    return subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True,
        timeout=60,
        check=True,
    )


def test_the_rendered_page_has_the_results_and_no_complaint(page):
    shown = open_in_chromium(page, "--dump-dom")
    dom = shown.stdout.decode()
    for heading in ("Results", "Examples", "Leakage audit", "Training", "Settings"):
        assert f"<h2>{heading}</h2>" in dom
    assert dom.count("<svg") == 2
    assert "It beats last-item transition beyond the interval" in dom
    assert "It cannot be told from second-last-item transition (" in dom
    assert "CONSOLE" not in shown.stderr.decode()


def test_a_script_in_the_page_would_be_complained_of(page):
    """The check above can fail: the same page with a script is refused by its own policy."""
    spoilt = page.with_name("spoilt.html")
    spoilt.write_text(page.read_text().replace("</main>", "<script>1</script></main>"))
    assert "CONSOLE" in open_in_chromium(spoilt, "--dump-dom").stderr.decode()


def asked_by(page) -> set[str]:
    """Addresses that the page asked for, itself included; not those the browser asks for on its own."""
    log = page.with_suffix(".net.json")
    open_in_chromium(
        page, f"--log-net-log={log}", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"
    )
    events = json.loads(log.read_text())["events"]
    parameters = [event.get("params", {}) for event in events]
    return {
        found["url"]
        for found in parameters
        if "url" in found and found.get("initiator") not in (None, "not an origin")
    }


def test_opening_the_page_asks_for_nothing_else(page):
    assert asked_by(page) <= {page.as_uri()}


def test_a_picture_from_elsewhere_would_be_noticed(page):
    """The check above can fail: without the policy, a picture's address is asked for."""
    spoilt = page.with_name("picture.html")
    text = re.sub("<meta http-equiv[^>]*>", "", page.read_text())
    spoilt.write_text(text.replace("</main>", '<img src="http://example.invalid/p.png"></main>'))
    assert "http://example.invalid/p.png" in asked_by(spoilt)


def test_the_picture_shows_a_light_page_filled_from_edge_to_edge(page):
    picture = page.with_name("page.png")
    open_in_chromium(page, f"--screenshot={picture}")
    pixels = read_png(picture)
    assert pixels.shape[1] == WIDTH
    assert (pixels[2, 2] == 255).all()
    dark_rows = (pixels.astype(int).sum(axis=2) < 384).any(axis=1)
    assert dark_rows.mean() > 0.2
    written = np.flatnonzero((pixels != 255).any(axis=(0, 2)))
    assert written[0] < WIDTH * 0.1 and written[-1] > WIDTH * 0.9


def test_nothing_is_wider_than_a_phone(page):
    """At 390 pixels wide tables scroll inside their frames: right of the page all stays white."""
    narrow = page.with_name("narrow.html")
    framed = "<style>html{width:390px;overflow-x:visible}body{width:390px}</style></head>"
    narrow.write_text(page.read_text().replace("</head>", framed))
    picture = page.with_name("narrow.png")
    open_in_chromium(narrow, f"--screenshot={picture}")
    pixels = read_png(picture)
    assert (pixels[:, 400:] == 255).all()


def read_png(path) -> np.ndarray:
    """Rows x columns x 3."""
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
