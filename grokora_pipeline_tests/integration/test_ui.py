"""The real UI of a materialized chain in a real browser: graph, asset, report, run, checks."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grokora_pipeline_tests.chain import environment, script

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(home: Path, run: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """`grokora ui`, started in another folder than the checkout."""
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    port = free_port()
    command = [script("grokora"), "ui", "--port", str(port)]
    with (home / "ui.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment(home), cwd=home, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/server_info", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the UI and all that it started; its web server waits for open web sockets, so it is not asked twice."""
    server.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        server.wait(timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(timeout=10)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "grokora ui ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")


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


def test_an_adapter_shows_its_curves(page: "Page") -> None:
    page.goto("/assets/actor/lora_adapter")
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[alt='loss and learning rate']")
    picture.wait_for(state="visible")
    width: Any = picture.evaluate("image => image.naturalWidth")
    assert width > 100
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
