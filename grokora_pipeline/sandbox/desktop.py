"""The desktop: windows with labelled widgets at pixel positions, a clipboard and the vault, driven by tool calls."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from grokora_pipeline.sandbox.vault import CommandError, Vault

REACH = 12  # pixels around a widget's centre that a click still hits
ToolResult = dict[str, Any]


@dataclass(slots=True)
class Widget:
    """Something on the screen: its centre in pixels, what it says, and the window that it opens, if any."""

    kind: str  # icon, button, field, checkbox or tab
    label: str
    x: int
    y: int
    value: str = ""
    opens: str = ""

    def line(self) -> str:
        """The widget as the accessibility text shows it."""
        shown = f" = {json.dumps(self.value, ensure_ascii=False)}" if self.value else ""
        return f'{self.kind} "{self.label}" [{self.x}, {self.y}]{shown}'


@dataclass(slots=True)
class Window:
    """A window; `focus` is the label of the field that takes typed text."""

    title: str
    widgets: list[Widget]
    focus: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What a goal is checked on; `outputs` must be shown, more of them do no harm."""

    files: dict[str, str]
    folders: frozenset[str]
    windows: dict[str, dict[str, str]]  # title -> label -> value
    front: str
    events: frozenset[str]
    outputs: frozenset[str]

    def reached_by(self, other: "State") -> bool:
        """Whether another state fulfils this one as a goal."""
        mine = (self.files, self.folders, self.windows, self.front, self.events)
        theirs = (other.files, other.folders, other.windows, other.front, other.events)
        return mine == theirs and self.outputs <= other.outputs


@dataclass(slots=True)
class World:
    """Everything that a tool call can see or change.

    `glitches` swallow the n-th desktop action: a notice that was in the way, or "" for a window that was busy.
    """

    vault: Vault
    windows: dict[str, Window]
    front: str
    clipboard: str = ""
    glitches: dict[int, str] = field(default_factory=dict)
    status: str = "ready"  # the last thing that happened, as an accessibility event says it
    events: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    actions: int = 0
    undone: list[tuple[Widget, str]] = field(default_factory=list)  # what ctrl+z brings back: a widget's last value

    def screen(self) -> str:
        """The front window as text: its title, then a widget a line."""
        window = self.windows[self.front]
        return "\n".join([f'window "{window.title}"', *(widget.line() for widget in window.widgets)])

    def state(self) -> State:
        """A snapshot that later changes do not touch."""
        values = {title: {w.label: w.value for w in window.widgets} for title, window in self.windows.items()}
        return State(
            dict(self.vault.files),
            frozenset(self.vault.folders),
            values,
            self.front,
            frozenset(self.events),
            frozenset(self.outputs),
        )

    def execute(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Run a tool call; the result has Grokputer's shape (`status` success or error). Bad arguments never raise."""
        try:
            if name == "bash":
                command = str(arguments["command"])
                shell = self.vault.run(command)
                self.outputs |= {shell.stdout} - {""}
                return {"status": "success", "command": command, **asdict(shell)}
            if name == "scan_vault":
                pattern, folder = str(arguments["pattern"]), "/home/user/grokputer/vault"
                files = self.vault.matching(pattern)
                self.status = f"{len(files)} files match {pattern}"
                self.outputs.add(f"{pattern}: {len(files)}\n")
                paths = [f"{folder}/{path}" for path in files]
                matches = {"pattern": pattern, "count": len(files), "files": paths, "vault_path": folder}
                return {"status": "success", **matches}
            if name == "computer":
                return self._computer(arguments)
        except (KeyError, TypeError, ValueError, OverflowError, CommandError) as error:
            return {"status": "error", "error": f"{type(error).__name__}: {error}"}
        return {"status": "error", "error": f"Unknown tool: {name}"}

    def _computer(self, arguments: dict[str, Any]) -> ToolResult:
        action, text = str(arguments["action"]), arguments.get("text")
        result: ToolResult = {"status": "success", "action": action}
        act: Callable[[], str]
        if action in {"left_click", "right_click", "double_click"}:
            x, y = (int(value) for value in arguments["coordinate"])
            act = partial(self._click, action, x, y)
        elif action == "type":
            result["text"] = typed = str(arguments["text"])
            act = partial(self._type, typed)
        elif action == "key":
            result["key"] = key = str(text)
            act = partial(self._key, key)
        elif action == "scroll":
            result["amount"] = amount = int(arguments["amount"])
            act = partial(str, f"scrolled {'up' if amount > 0 else 'down'}")
        else:
            return {"status": "error", "error": f"Unknown action: {action}"}
        self.actions += 1
        glitch = self.glitches.get(self.actions)
        if glitch is not None:  # the action is swallowed, and looks as if it had been done
            self.status = glitch or self.status
        elif event := act():
            self.status = event
            self.events.add(event)
        return result

    def _click(self, action: str, x: int, y: int) -> str:
        window = self.windows[self.front]
        widget = next((w for w in window.widgets if max(abs(w.x - x), abs(w.y - y)) <= REACH), None)
        if widget is None:
            return ""
        if action == "right_click":
            return f"menu of {widget.label} opened"
        if widget.opens and (widget.kind != "icon" or action == "double_click"):
            self.front = widget.opens
        if widget.kind == "checkbox":
            widget.value = "" if widget.value else "on"
            return f"{widget.label} {'ticked' if widget.value else 'unticked'}"
        if widget.kind == "field":
            window.focus = widget.label
        verb = {"icon": "opened" if action == "double_click" else "selected", "button": "pressed", "field": "focused"}
        return f"{widget.label} {verb.get(widget.kind, 'shown')}"

    def _type(self, text: str) -> str:
        window = self.windows[self.front]
        widget = next((w for w in window.widgets if w.label == window.focus), None)
        if widget is None:
            return ""
        self.undone = [(widget, widget.value)]
        widget.value += text
        return f"{widget.label} contains '{widget.value}'"

    def _key(self, key: str) -> str:
        if key == "ctrl+v":
            return self._type(self.clipboard)
        if key == "ctrl+z":
            for widget, value in self.undone:
                widget.value = value
        window = self.windows[self.front]
        if key == "ctrl+c":
            self.clipboard = next((w.value for w in window.widgets if w.label == window.focus), self.clipboard)
        return f"key {key} pressed"
