"""What one clause of a task can ask for: its wordings, the tool call that does it, and the event that it should cause.

The same table writes tasks and reads them: a wording with its slots filled is a clause; a wording as a regular
expression finds the slots again. So the experts need nothing but the text of their call.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

Slots = dict[str, str]
Arguments = dict[str, Any]
Point = list[int]

_LABEL = r"[A-Z][a-z]+(?: [a-z]+)?"
_FILE = r"[\w./-]+\.[a-z]+"
SLOT_PATTERNS = {
    "file": _FILE, "newfile": _FILE, "folder": r"[\w-]+", "text": r"'[^']*'", "word": r"'[^']*'", "n": r"\d+",
    "ext": r"[a-z]+", "key": r"[a-z0-9+]+", "app": _LABEL, "button": _LABEL, "field": _LABEL, "box": _LABEL,
    "tab": _LABEL, "item": _LABEL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Primitive:
    """One thing to ask for. `target` is the slot that the observer must find."""

    name: str
    wordings: tuple[str, ...]
    tool: str = "bash"
    template: str = ""  # the bash command, the pattern, the text or the key, with slots
    action: str = ""  # of the tool `computer`
    target: str = ""
    event: str = ""  # the expected status, with slots; a leading * stands for any start

    def arguments(self, slots: Slots, point: Point | None) -> Arguments:
        """The arguments of the one tool call that does the clause; `point` is where the observer found the target."""
        filled = fill(self.template, slots)
        if self.tool == "bash":
            return {"command": filled}
        if self.tool == "scan_vault":
            return {"pattern": filled}
        if self.target:
            return {"action": self.action, "coordinate": point}
        if self.action == "scroll":
            return {"action": "scroll", "amount": int(filled)}
        return {"action": self.action, "text": filled.strip("'") if self.action == "type" else filled}

    def expects(self, status: str, slots: Slots) -> bool:
        """Whether a status is what this clause should cause."""
        wanted = fill(self.event, slots)
        return status.endswith(wanted[1:]) if wanted.startswith("*") else status == wanted


def fill(template: str, slots: Slots) -> str:
    """A wording or a template with its slots filled."""
    for name, value in slots.items():
        template = template.replace("{" + name + "}", value)
    return template


def _bash(name: str, command: str, *wordings: str) -> Primitive:
    return Primitive(name, wordings, template=command)


def _click(name: str, action: str, target: str, event: str, *wordings: str) -> Primitive:
    return Primitive(name, wordings, "computer", action=action, target=target, event=event)


def _keys(name: str, template: str, event: str, *wordings: str, action: str = "key") -> Primitive:
    return Primitive(name, wordings, "computer", template, action, event=event)


PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        _click("open_app", "double_click", "app", "{app} opened",
               "open the {app} app", "launch the {app} app", "start the {app} program", "run the {app} app",
               "bring up the {app} app", "start the app {app}", "open the program {app}",
               "double click the {app} icon"),
        _click("click_button", "left_click", "button", "{button} pressed",
               "click the {button} button", "click on the {button} button", "press the {button} button",
               "hit the {button} button", "push the {button} button", "click the button {button}",
               "choose the {button} button", "use the {button} button"),
        _click("click_field", "left_click", "field", "{field} focused",
               "click the {field} field", "click into the {field} field", "focus the {field} field",
               "go to the {field} field", "put the cursor in the {field} field", "select the {field} field"),
        _click("tick_box", "left_click", "box", "{box} ticked",
               "tick the {box} box", "check the {box} box", "tick the {box} checkbox", "turn on the {box} checkbox",
               "enable the {box} checkbox", "switch on the {box} box", "set the {box} checkbox"),
        _click("switch_tab", "left_click", "tab", "{tab} shown",
               "switch to the {tab} tab", "go to the {tab} tab", "open the {tab} tab", "show the {tab} tab",
               "select the {tab} tab", "change to the {tab} tab"),
        _click("right_click", "right_click", "item", "menu of {item} opened",
               "right click the {item} icon", "right-click on the {item} icon", "right-click the {item} icon",
               "open the context menu of the {item} icon", "show the context menu of the {item} icon"),
        _keys("type_text", "{text}", "*contains {text}", "type {text}", "enter {text}", "write {text}", "key in {text}",
              "type the text {text}", "type in {text}", "input {text}", action="type"),
        _keys("press_key", "{key}", "key {key} pressed", "press {key}", "hit {key}", "press the {key} key",
              "hit the {key} key", "tap {key}", "push the {key} key"),
        _keys("paste", "ctrl+v", "*'", "paste the clipboard", "paste from the clipboard", "insert the clipboard text",
              "paste it in", "paste what is in the clipboard"),
        _keys("save", "ctrl+s", "key ctrl+s pressed", "save the document", "save the work", "save it with the keyboard",
              "save my changes", "store the document"),
        _keys("undo", "ctrl+z", "key ctrl+z pressed", "undo the last change", "undo that", "take back the last edit",
              "revert the last step"),
        _keys("select_all", "ctrl+a", "key ctrl+a pressed", "select all", "select everything", "mark all the text",
              "highlight everything"),
        _keys("scroll_down", "-300", "scrolled down", "scroll down", "scroll the page down",
              "move further down the page", "scroll to lower content", action="scroll"),
        _keys("scroll_up", "300", "scrolled up", "scroll up", "scroll the page up", "move back up the page",
              "scroll to upper content", action="scroll"),
        _bash("copy_to_folder", "cp {file} {folder}/",
              "copy {file} to the {folder} folder", "copy {file} into {folder}", "put a copy of {file} in {folder}",
              "make a copy of {file} in the {folder} folder", "copy the file {file} into the folder {folder}",
              "back up {file} to {folder}"),
        _bash("copy_as", "cp {file} {newfile}",
              "copy {file} as {newfile}", "duplicate {file} as {newfile}", "make a copy of {file} called {newfile}",
              "clone {file} to {newfile}", "copy {file} under the name {newfile}"),
        _bash("move_file", "mv {file} {folder}/",
              "move {file} to the {folder} folder", "move {file} into {folder}", "put {file} into the {folder} folder",
              "shift {file} to {folder}", "move the file {file} into the folder {folder}",
              "file {file} under {folder}"),
        _bash("rename_file", "mv {file} {newfile}",
              "rename {file} to {newfile}", "change the name of {file} to {newfile}",
              "rename the file {file} to {newfile}", "call {file} {newfile} instead",
              "give {file} the new name {newfile}"),
        _bash("make_folder", "mkdir {folder}",
              "create a folder called {folder}", "make a folder named {folder}", "make a new folder {folder}",
              "add the folder {folder}", "create the directory {folder}", "set up a folder called {folder}"),
        _bash("delete_file", "rm {file}",
              "delete {file}", "remove {file}", "delete the file {file}", "get rid of {file}", "erase {file}"),
        _bash("count_lines", "wc -l {file}",
              "count the lines in {file}", "count the lines of {file}", "tell me how many lines {file} has",
              "find out how many lines are in {file}", "get the number of lines in {file}"),
        _bash("count_words", "wc -w {file}",
              "count the words in {file}", "count the words of {file}", "tell me how many words {file} has",
              "find out how many words are in {file}", "get the number of words in {file}"),
        _bash("search_text", "grep {word} {file}",
              "search {file} for {word}", "find {word} in {file}", "look for {word} in {file}",
              "search for {word} in {file}", "show the lines of {file} with {word}", "grep {file} for {word}"),
        _bash("show_file", "cat {file}",
              "show {file}", "read {file}", "print {file}", "show me what is in {file}", "display the file {file}",
              "show the content of {file}"),
        _bash("first_lines", "head -n {n} {file}",
              "show the first {n} lines of {file}", "print the top {n} lines of {file}",
              "read the first {n} lines of {file}", "give me the first {n} lines of {file}"),
        _bash("last_lines", "tail -n {n} {file}",
              "show the last {n} lines of {file}", "print the bottom {n} lines of {file}",
              "read the last {n} lines of {file}", "give me the last {n} lines of {file}"),
        _bash("list_folder", "ls {folder}",
              "list the {folder} folder", "list the files in {folder}", "show what is in the {folder} folder",
              "list everything in {folder}", "look into the folder {folder}"),
        _bash("newest_file", "ls -t {folder} | head -n 1",
              "find the newest file in {folder}", "show the latest file in the {folder} folder",
              "tell me which file in {folder} is newest", "get the most recent file in {folder}"),
        _bash("write_file", "echo {text} > {newfile}",
              "write {text} to {newfile}", "save {text} in {newfile}", "put {text} into the file {newfile}",
              "create {newfile} with the text {text}", "store {text} in {newfile}"),
        _bash("append_file", "echo {text} >> {file}",
              "append {text} to {file}", "add {text} to the end of {file}", "add the line {text} to {file}",
              "put {text} at the end of {file}"),
        _bash("touch_file", "touch {newfile}",
              "create an empty file {newfile}", "make an empty file called {newfile}",
              "create the empty file {newfile}",
              "add an empty file {newfile}"),
        _bash("sort_into", "sort {file} > {newfile}",
              "sort {file} into {newfile}", "sort the lines of {file} into {newfile}",
              "save a sorted {file} as {newfile}", "write the sorted lines of {file} to {newfile}"),
        _bash("count_into", "wc -l {file} > {newfile}",
              "save the line count of {file} in {newfile}", "write the number of lines of {file} to {newfile}",
              "store the line count of {file} in {newfile}", "put the line count of {file} into {newfile}"),
        _bash("wipe_folder", "rm -rf {folder}",
              "wipe the {folder} folder", "delete the whole folder {folder}", "destroy everything in {folder}",
              "erase the {folder} folder with all its files"),
        Primitive("scan_vault",
                  ("find all {ext} files in the vault", "scan the vault for {ext} files",
                   "look for {ext} files in the vault", "find every {ext} file", "search the vault for {ext} files",
                   "scan for {ext} files"), "scan_vault", "*.{ext}",
                   event="*match *.{ext}"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause that was read: what it asks for, and with which names."""

    primitive: Primitive
    slots: Slots

    @property
    def target(self) -> str:
        """The label that the observer must find, "" if nothing must be found."""
        return self.slots[self.primitive.target] if self.primitive.target else ""


@cache
def _readers() -> list[tuple[Primitive, re.Pattern[str]]]:
    """Every wording, such as `open {app}`, as a regular expression with a group a slot."""
    groups = {slot: f"(?P<{slot}>{pattern})" for slot, pattern in SLOT_PATTERNS.items()}
    return [
        # `re.escape` escapes the braces of a slot, too
        (primitive, re.compile(re.sub(r"\\{(\w+)\\}", lambda slot: groups[slot[1]], re.escape(wording))))
        for primitive in PRIMITIVES.values()
        for wording in primitive.wordings
    ]


def read_clause(text: str) -> Clause | None:
    """What a clause asks for; None if no wording fits it whole."""
    for primitive, pattern in _readers():
        match = pattern.fullmatch(text)
        if match:
            return Clause(primitive, match.groupdict())
    return None
