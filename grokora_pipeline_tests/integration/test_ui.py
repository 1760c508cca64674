"""The real UI of a materialized chain in a real browser: graph, asset, report, run, checks."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from grokora_pipeline_tests.chain import environment, script
from grokora_pipeline_tests.processes import free_port, started, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
WAIT = 60_000  # milliseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("chain"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(home: Path, run: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """`grokora ui`, started in another folder than the checkout."""
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [script("grokora"), "ui", "--port", str(port)]

    def answers() -> bool:
        assert server.poll() is None, "grokora ui ended"
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/server_info").is_success
        return False

    # its web server waits for open web sockets, and is killed if it waits long
    with started(command, home / "ui.log", environment(home), signal.SIGINT) as server:
        until(answers, f"an answer of {url}", 240, every=0.5)  # it took 89 on a busy machine
        yield url


@pytest.fixture(scope="module")
def page(address: str) -> Iterator["Page"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1400, "height": 900}, base_url=address)
        opened.set_default_timeout(WAIT)
        yield opened
        browser.close()


def see(page: "Page", *texts: str) -> None:
    """Every text is somewhere on the page, in time."""
    for text in texts:
        page.get_by_text(text).first.wait_for(state="visible")


def shoot(page: "Page", name: str) -> None:
    """A picture, kept where GROKORA_SCREENSHOTS names a folder (the README's come from there)."""
    if folder := os.environ.get("GROKORA_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_the_graph_shows_the_chain_of_every_agent(page: "Page") -> None:
    page.goto("/asset-groups")
    see(page, "Global asset lineage", "coordinator", "actor", "sources")
    shoot(page, "graph")


def test_a_click_leads_from_the_graph_to_an_asset(page: "Page") -> None:
    page.goto("/locations/grokora_pipeline/asset-groups/actor")
    page.get_by_text("eval_report").first.click()
    see(page, "Main metric")


def test_a_report_shows_its_table_and_where_the_page_lies(page: "Page") -> None:
    page.goto("/assets/actor/eval_report")
    see(page, "report.html", "adapter", "tool_call_match")
    shoot(page, "report")


def metadata(page: "Page") -> dict[str, str]:
    """What an asset's page says of its latest materialization, in the page's order."""
    rows = page.locator("tr").filter(has=page.locator("td:nth-child(3)"))
    rows.first.wait_for(state="visible")
    cells = ([cell.inner_text() for cell in row.locator("td").all()] for row in rows.all())
    return {key: value for key, _, value, *_ in cells if key != "Key"}


def numbers(shown: dict[str, str]) -> list[str]:
    return [name for name, text in shown.items() if re.fullmatch(r"[-+]?[\d,]+(\.\d+)?(e-?\d+)?", text.strip())]


def test_a_reports_page_has_verdict_and_picture_first_and_opens_the_report(page: "Page") -> None:
    page.goto("/assets/actor/eval_report")
    see(page, "worth_it")
    shown = metadata(page)
    assert list(shown)[:3] == ["verdict", "worth_it", "systems"]
    assert numbers(shown)[0] == "adapter/tool_call_match"  # the first that is plotted
    assert len(numbers(shown)) <= 12
    page.get_by_text("Show Markdown").nth(0).click()
    assert drawn(page, "tool_call_match with intervals") > 100
    page.keyboard.press("Escape")
    page.get_by_text("Show Markdown").nth(1).click()  # the report itself: browsers open no local file from a page
    dialog = page.locator("[role=dialog]")
    dialog.get_by_text("What the gate looked at").wait_for(state="visible")
    assert "adapter - base" in dialog.locator("table").first.inner_text()
    assert Path(shown["report"].strip()).is_file()
    page.keyboard.press("Escape")


def test_a_champions_page_says_who_answers_and_on_what_evidence(page: "Page") -> None:
    page.goto("/assets/actor/champion")
    see(page, "challenger")
    shown = metadata(page)
    assert list(shown)[:2] == ["decision", "champion"]
    assert shown["decision"].startswith(("Promoted", "Not promoted"))
    assert "no validation row was trained on." in shown["evidence"]
    assert len(numbers(shown)) <= 12
    shoot(page, "champion")


def test_the_launchpad_explains_every_field_where_it_is_set(page: "Page") -> None:
    page.goto("/locations/grokora_pipeline/jobs/retrain_actor/playground")
    page.get_by_text("few_shot").first.click()
    see(page, "Examples before each question", "Measure anew although nothing has changed")


def drawn(page: "Page", alt: str) -> int:
    """The width in pixels of a picture, once it is there."""
    picture = page.locator(f"img[alt='{alt}']")
    picture.wait_for(state="visible")
    return int(picture.evaluate("image => image.naturalWidth"))


def test_an_adapter_shows_its_curves(page: "Page") -> None:
    page.goto("/assets/actor/lora_adapter")
    page.get_by_text("Show Markdown").first.click()
    assert drawn(page, "loss and learning rate") > 100
    shoot(page, "adapter")


def test_the_dataset_names_its_columns(page: "Page") -> None:
    page.goto("/assets/session_logs")
    see(page, "source_sha256", "redacted")


def test_the_run_of_the_demo_is_in_the_history(page: "Page") -> None:
    page.goto("/runs")
    see(page, "retrain_all")
    page.get_by_text("retrain_all").first.click()
    shoot(page, "runs")


def test_a_check_explains_itself(page: "Page") -> None:
    page.goto("/assets/actor/tokenized_split?view=checks")
    page.get_by_text("no_straddling_group").first.click()
    see(page, "Validation stays unseen.", "a_split_by_rows_would_leak")
    shoot(page, "checks")
