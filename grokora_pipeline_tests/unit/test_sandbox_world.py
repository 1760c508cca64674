"""The sandbox world: its bash behaves like bash, its desktop like a desktop."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.sandbox.desktop import Widget, Window, World
from grokora_pipeline.sandbox.vault import Vault

FILES = {
    "a.txt": "one two\nthree\n",
    "docs/b.md": "zeta\nalpha\nmid\nalpha\n",
    "docs/c.txt": "",
    "old/d.csv": "1,2\n3,4\n",
}
COMMANDS = [
    "ls", "ls docs", "ls nothing", "cat a.txt", "cat a.txt docs/b.md", "cat none.txt", "cat docs", "cp a.txt docs/",
    "cp a.txt e.txt", "cp docs/b.md old/ && cat old/b.md", "cp a.txt gone/", "cp a.txt gone/x.txt", "mv a.txt docs/",
    "mv a.txt z.md && ls", "mv docs archive && cat archive/b.md", "mv none.txt docs/", "mkdir new && ls",
    "mkdir docs", "mkdir x/y", "mkdir -p x/y/z && ls x", "rm a.txt && ls", "rm docs", "rm -r docs && ls",
    "rm none.txt", "touch t.log && ls", "wc -l a.txt", "wc -w docs/b.md", "wc -c a.txt", "cat docs/b.md | wc -l",
    "grep alpha docs/b.md", "grep -c alpha docs/b.md", "grep -i ALPHA docs/b.md", "cat docs/b.md | grep mid",
    "head -n 2 docs/b.md", "tail -n 1 a.txt", "head -1 docs/b.md", "sort docs/b.md", "sort -r docs/b.md",
    "sort docs/b.md > s.txt && cat s.txt", "echo 'a  b' > n.txt && cat n.txt", "echo more >> a.txt && cat a.txt",
    "echo x > gone/n.txt", "cat *.txt", "echo hello | wc -w", "ls; echo done", "wc -l a.txt > n.txt && cat n.txt",
    "find -name", "frobnicate a.txt", "cat 'a.txt", "cat a.txt | sort | head -n 1",
]  # fmt: skip


def _vault() -> Vault:
    return Vault(dict(FILES), {"docs", "old"})


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_small_bash_does_what_bash_does(command: str, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    real = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    vault = _vault()
    ours = vault.run(command)
    assert ours.stdout == real.stdout
    assert (ours.returncode == 0) == (real.returncode == 0)
    left = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert vault.files == left
    assert vault.folders == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir()}


@given(st.text(alphabet="abcdlsmvprtw -*/.'\"|&;>n01", max_size=40))
def test_no_command_line_breaks_the_bash_or_leaves_the_vault(line: str) -> None:
    vault = _vault()
    vault.run(line)
    assert all(".." not in path.split("/") and not path.startswith("/") for path in vault.files)


def test_ls_t_shows_the_newest_file_first() -> None:
    vault = _vault()
    vault.run("echo late >> docs/b.md")
    assert vault.run("ls -t docs | head -n 1").stdout == "b.md\n"


def _world() -> World:
    icons = Window("Desktop", [Widget("icon", "Editor", 100, 100, opens="Editor"), Widget("icon", "Readme", 300, 100)])
    widgets = [
        Widget("field", "Body", 200, 80),
        Widget("checkbox", "Wrap", 60, 300),
        Widget("button", "Save", 400, 300),
    ]
    return World(_vault(), {"Desktop": icons, "Editor": Window("Editor", widgets)}, "Desktop", clipboard="clip")


def test_a_double_click_opens_an_icon_and_a_single_click_selects_it() -> None:
    world = _world()
    world.execute("computer", {"action": "left_click", "coordinate": [101, 99]})
    assert (world.front, world.status) == ("Desktop", "Editor selected")
    world.execute("computer", {"action": "double_click", "coordinate": [101, 99]})
    assert (world.front, world.status) == ("Editor", "Editor opened")
    assert world.screen() == (
        'window "Editor"\nfield "Body" [200, 80]\ncheckbox "Wrap" [60, 300]\nbutton "Save" [400, 300]'
    )


def test_typed_text_needs_a_focused_field_and_can_be_pasted_and_undone() -> None:
    world = _world()
    world.front = "Editor"
    world.execute("computer", {"action": "type", "text": "lost"})
    assert world.status == "ready"
    world.execute("computer", {"action": "left_click", "coordinate": [200, 80]})
    world.execute("computer", {"action": "type", "text": "kept "})
    world.execute("computer", {"action": "key", "text": "ctrl+v"})
    assert world.status == "Body contains 'kept clip'"
    world.execute("computer", {"action": "key", "text": "ctrl+z"})
    assert world.state().windows["Editor"]["Body"] == "kept "


def test_a_click_beside_everything_changes_nothing() -> None:
    world = _world()
    before = world.state()
    world.execute("computer", {"action": "left_click", "coordinate": [700, 700]})
    assert world.state() == before


def test_a_glitch_swallows_one_action_and_the_next_one_works() -> None:
    world = _world()
    world.glitches = {1: 'notice "Update" closed'}
    click = {"action": "double_click", "coordinate": [100, 100]}
    world.execute("computer", click)
    assert (world.front, world.status) == ("Desktop", 'notice "Update" closed')
    world.execute("computer", click)
    assert world.front == "Editor"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("computer", {}), ("computer", {"action": "left_click", "coordinate": "here"}), ("computer", {"action": "fly"}),
     ("computer", {"action": "left_click", "coordinate": [1]}), ("bash", {}), ("scan_vault", {"limit": 3}), ("rm", {}),
     ("computer", {"action": "scroll", "amount": None}), ("computer", {"action": ["type"]})],
)  # fmt: skip
def test_a_bad_tool_call_is_an_error_result_and_changes_nothing(name: str, arguments: dict[str, object]) -> None:
    world = _world()
    before = world.state()
    assert world.execute(name, arguments)["status"] == "error"
    assert world.state() == before


def test_a_failing_command_is_a_success_with_a_return_code_as_in_grokputer() -> None:
    result = _world().execute("bash", {"command": "cat none.txt"})
    assert result["status"] == "success"
    assert result["returncode"] == 1
    assert "No such file" in result["stderr"]


def test_scan_vault_reports_what_matches() -> None:
    world = _world()
    result = world.execute("scan_vault", {"pattern": "*.txt"})
    assert result["count"] == 2
    assert result["files"] == ["/home/user/grokputer/vault/a.txt", "/home/user/grokputer/vault/docs/c.txt"]
