"""Tasks: families of one to three clauses, worded in many ways, over a world made for them, with a goal state.

A family is a list of alternatives, and an alternative is a sequence of primitives ("make_folder move_file"). A slot
name stands for one value in the whole task; `:slot=name` gives a step another one. The held-out families are
sequences that no sample family contains; their primitives all occur in the sample.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from grokora_pipeline.sandbox.clauses import PRIMITIVES, SLOT_PATTERNS, Arguments, Primitive, Slots, fill, read_clause
from grokora_pipeline.sandbox.desktop import State, ToolResult, Widget, Window, World
from grokora_pipeline.sandbox.vault import Vault
from grokora_pipeline.sandbox.words import EXTENSIONS, HELD_OUT, KEYS, NOTICES, SAMPLE, Vocabulary

SAMPLE_FAMILIES: dict[str, tuple[str, ...]] = {
    "open_app": ("open_app", "open_app type_text", "open_app click_button", "open_app tick_box"),
    "fill_form": ("click_field type_text", "open_app click_field", "click_field press_key", "click_field click_button"),
    "press_button": ("click_button", "click_button press_key", "click_button click_button:button=button2"),
    "settings": ("switch_tab", "switch_tab tick_box", "tick_box", "tick_box press_key"),
    "keyboard": ("press_key", "press_key press_key:key=key2", "type_text press_key", "select_all press_key"),
    "clipboard": ("click_field paste", "paste save", "paste click_button", "click_field select_all"),
    "editing": ("type_text save", "undo", "undo save", "save press_key", "open_app press_key"),
    "browsing": ("scroll_down", "scroll_up", "scroll_down click_button", "press_key scroll_up", "scroll_up switch_tab"),
    "context_menu": ("right_click", "right_click press_key", "right_click:item=item right_click:item=item2"),
    "copy": ("copy_to_folder", "copy_as", "copy_to_folder list_folder", "copy_as show_file:file=newfile"),
    "move": ("move_file", "move_file list_folder", "move_file delete_file:file=file2"),
    "rename": ("rename_file", "rename_file show_file:file=newfile", "rename_file list_folder"),
    "folders": ("make_folder:folder=new", "make_folder:folder=new copy_to_folder:folder=new", "list_folder",
                "newest_file", "newest_file make_folder:folder=new"),
    "tidy": ("delete_file", "delete_file list_folder", "delete_file count_lines:file=file2"),
    "count": ("count_lines", "count_words", "count_into", "count_into show_file:file=newfile", "count_words show_file"),
    "search": ("search_text", "search_text count_lines", "search_text show_file:file=file2"),
    "read": ("show_file", "first_lines", "last_lines", "first_lines last_lines:file=file2", "last_lines rename_file"),
    "take_notes": ("write_file", "append_file", "append_file show_file", "write_file copy_to_folder:file=newfile"),
    "sort": ("sort_into", "sort_into first_lines:file=newfile", "touch_file", "touch_file append_file:file=newfile"),
    "scan": ("scan_vault", "scan_vault show_file", "scan_vault make_folder:folder=new"),
    "desk_and_vault": ("open_app show_file", "count_lines open_app", "type_text touch_file", "search_text click_button",
                       "scan_vault open_app", "click_button write_file"),
    "three_steps": ("open_app type_text save", "open_app click_button press_key",
                    "make_folder:folder=new list_folder move_file",
                    "switch_tab tick_box press_key", "copy_as append_file:file=newfile count_lines:file=newfile",
                    "scroll_down click_button press_key", "write_file show_file:file=newfile list_folder"),
}  # fmt: skip
REFUSED_FAMILY = "dangerous"  # the validator must refuse the command; in the sample only
REFUSED = ("wipe_folder",)
ABSENT_FAMILY = "not_there"  # the observer must find nothing; in the sample only
ABSENT = ("open_app", "click_button", "tick_box", "switch_tab", "click_field", "right_click")
HELD_OUT_FAMILIES: dict[str, tuple[str, ...]] = {
    "sort_then_file": ("make_folder:folder=new move_file:folder=new", "sort_into move_file:file=newfile"),
    "copy_then_rename": ("copy_as rename_file:newfile=newfile2",),
    "search_then_copy": ("search_text copy_to_folder", "search_text delete_file:file=file2"),
    "open_tab": ("open_app switch_tab", "open_app scroll_down"),
    "tick_then_confirm": ("tick_box click_button", "tick_box switch_tab"),
    "paste_and_send": ("click_field paste press_key", "click_field paste click_button"),
    "type_then_click": ("type_text click_button", "type_text undo"),
    "write_then_count": ("write_file count_words:file=newfile", "append_file count_words"),
    "fill_and_save": ("click_field type_text save", "click_field type_text click_button"),
    "scan_then_tidy": ("scan_vault delete_file", "scan_vault move_file"),
    "menu_then_note": ("right_click write_file", "right_click open_app"),
    "read_then_act": ("first_lines copy_as:file=file2", "show_file rename_file:file=file2", "newest_file touch_file"),
}

PREFIXES = ("", "", "", "please ", "can you ", "could you ", "I need you to ", "I want you to ", "first ",
            "hey Grokputer, ", "Grokputer, ", "now ", "you should ", "go and ", "quickly ", "ZA GROKA: ")  # fmt: skip
CONNECTORS = (" and ", " and then ", ", then ", "; then ", "; next ", ", and after that ", " and finally ",
              ", afterwards ")  # fmt: skip
SUFFIXES = ("", "", "", ".", " please", ", thanks")


@dataclass(frozen=True, slots=True)
class Task:
    """A task: what it says, how its world is made, and the clauses that its goal follows from."""

    task_id: str
    family: str
    text: str
    clauses: tuple[str, ...]
    slots: Slots
    seed: int
    vocabulary: Vocabulary
    refused: bool = False
    absent: bool = False  # what the task needs is not on the screen, and saying so is the success
    glitch: tuple[int, str] | None = None  # which desktop action is swallowed, and the notice that did it

    def world(self) -> World:
        """A fresh world, the same at every call: the vault, the desktop, and an app with what the task needs."""
        rng = random.Random(self.seed)
        slots, words = self.slots, self.vocabulary
        icons = [slots["app"], *_others(rng, words.apps, {slots["app"]}, 2), slots["item"], slots["item2"]]
        desktop = Window("Desktop", _place(rng, [("icon", label) for label in icons], opens=slots["app"]))
        app = Window(slots["app"], _place(rng, _app_widgets(rng, self)), slots["field"])
        # The desktop is in front if no clause before the first desktop clause needs the app's own window.
        clauses = [clause for text in self.clauses if (clause := read_clause(text))]
        names = [clause.primitive.name for clause in clauses]
        first = next((clause.primitive.name for clause in clauses if clause.primitive.tool == "computer"), "")
        front = "Desktop" if first in {"open_app", "right_click"} else app.title
        world = World(build_vault(rng, self), {"Desktop": desktop, app.title: app}, front)
        if self.absent:
            wanted = {clause.target for clause in clauses}
            for window in world.windows.values():
                window.widgets = [widget for widget in window.widgets if widget.label not in wanted]
        world.clipboard = " ".join(rng.sample(words.words, 2))
        world.glitches = dict([self.glitch]) if self.glitch else {}
        if "click_field" in names:
            app.focus = ""
        return world

    def goal(self) -> State:
        """The state that the clauses lead to when they are carried out one by one, without glitches."""
        world = self.world()
        world.glitches = {}
        for text in () if self.refused or self.absent else self.clauses:
            carry_out(world, text)
        return world.state()


def carry_out(world: World, text: str) -> tuple[str, Arguments, ToolResult]:
    """Do a clause in a world, by the right tool call: its tool, arguments and result."""
    clause = read_clause(text)
    if clause is None:
        raise ValueError(f"no wording fits {text!r}")
    point = next(([w.x, w.y] for w in world.windows[world.front].widgets if w.label == clause.target), None)
    tool, arguments = clause.primitive.tool, clause.primitive.arguments(clause.slots, point)
    return tool, arguments, world.execute(tool, arguments)


def sample_tasks(seed: int, count: int) -> list[Task]:
    """Tasks of the sample families; one in 25 must be refused, one in ten asks for what is not on the screen.

    Each task is the option whose primitives were drawn least so far: an agent cannot learn what its rows never ask
    for, and drawing at random left some primitives without a single row.
    """
    rng = random.Random(f"sample-{seed}")
    options = [(family, steps) for family, listed in SAMPLE_FAMILIES.items() for steps in listed]
    drawn, wordings = Counter[str](), Counter[str]()
    tasks = []
    for index in range(count):
        absent = index % 10 == 7
        if index % 25 == 24:
            kind = (REFUSED_FAMILY, rng.choice(REFUSED))
        elif absent:
            kind = (ABSENT_FAMILY, ABSENT[index // 10 % len(ABSENT)])
        else:
            kind = min(rng.sample(options, len(options)), key=lambda option: _share_drawn(option[1], drawn))
            drawn.update(_primitives(kind[1]))
        tasks.append(make_task(rng, f"task_{index:04d}", kind, SAMPLE, wordings=wordings))
    return tasks


def _share_drawn(steps: str, drawn: Counter[str]) -> float:
    """How often the primitives of an option were drawn, on average, against how often they are wanted; 1.5 less for
    each further step, since most tasks that people give have several.

    A primitive with a target is wanted more often: only those ask the observer.
    """
    names = _primitives(steps)
    share = sum(drawn[name] / (2.5 if PRIMITIVES[name].target else 1) for name in names) / len(names)
    return share - 1.5 * (len(names) - 1)


def _primitives(steps: str) -> list[str]:
    return [step.partition(":")[0] for step in steps.split()]


def swarm_tasks(seed: int, count: int) -> list[Task]:
    """Unseen tasks, spread evenly over the held-out families, with held-out names and words only."""
    rng = random.Random(f"swarm-{seed}")
    families = list(HELD_OUT_FAMILIES)
    picks = [families[index % len(families)] for index in range(count)]
    return [
        make_task(rng, f"unseen_{seed}_{index:03d}", (family, rng.choice(HELD_OUT_FAMILIES[family])), HELD_OUT)
        for index, family in enumerate(picks)
    ]


def make_task(
    rng: random.Random,
    task_id: str,
    kind: tuple[str, str],
    vocabulary: Vocabulary,
    *,
    text: str = "",
    wordings: Counter[str] | None = None,
) -> Task:
    """A task of a `kind`, (family, steps): draws its names and wordings, and now and then a glitch.

    `text` is what to type or write, if that is not drawn too. `wordings` counts the wordings used so far: with it the
    least used one is taken, so that every wording is in the sample; without it they are drawn at random.
    """
    family, steps = kind
    plan = list[tuple[Primitive, Slots]]()  # each primitive with the slots that it takes under another name
    for step in steps.split():
        name, _, renames = step.partition(":")
        plan.append((PRIMITIVES[name], dict(pair.split("=") for pair in renames.split(",") if pair)))
    slots = draw_slots(rng, vocabulary) | ({"text": f"'{text}'"} if text else {})
    clauses = list[str]()
    for primitive, renamed in plan:
        if wordings is None:
            wording = rng.choice(primitive.wordings)
        else:
            wording = min(rng.sample(primitive.wordings, len(primitive.wordings)), key=wordings.__getitem__)
            wordings[wording] += 1
        clauses.append(fill(wording, {slot: slots[renamed.get(slot, slot)] for slot in SLOT_PATTERNS}))
    wording = clauses[0]
    for clause in clauses[1:]:
        wording += rng.choice(CONNECTORS) + clause
    wording = dress(rng, wording)
    share, glitch = 0.3, (rng.randint(1, 2), rng.choice(["", "", *(f'notice "{n}" closed' for n in NOTICES)]))
    if wordings is not None:  # a glitch of the sample hits an action that there is, else the validator sees too few
        actions = sum(primitive.tool == "computer" for primitive, _ in plan)
        share, glitch = 0.45, (rng.randint(1, max(1, actions)), glitch[1])
    return Task(
        task_id, family, wording, tuple(clauses), slots, rng.randrange(2**31), vocabulary,
        refused=steps in REFUSED, absent=family == ABSENT_FAMILY,
        glitch=glitch if rng.random() < share else None,
    )  # fmt: skip


def dress(rng: random.Random, wording: str) -> str:
    """A wording with something before and after it, as people write."""
    return rng.choice(PREFIXES) + wording + rng.choice(SUFFIXES)


def draw_slots(rng: random.Random, words: Vocabulary) -> Slots:
    """A value for every slot name that a step may use, all different where they must be."""
    names = []
    for stem in rng.sample(words.stems, 4):
        kind, ending = rng.random(), ""
        if kind < 0.35:
            ending = str(rng.randint(1, 30)) if kind < 0.2 else f"{rng.choice('-_')}{rng.choice(words.stems)}"
        names.append(f"{stem}{ending}.{rng.choice(EXTENSIONS)}")
    folder, new, away = rng.sample(words.folders, 3)
    nest = f"{away}/" if rng.random() < 0.15 else ""
    buttons, items, keys = rng.sample(words.buttons, 2), rng.sample(words.items, 2), rng.sample(KEYS, 2)
    text = " ".join(rng.sample(words.words, rng.randint(1, 4)))
    return {
        "file": nest + names[0], "file2": names[1], "newfile": names[2], "newfile2": names[3],
        "folder": folder, "new": new, "text": f"'{text}'", "word": f"'{rng.choice(words.words)}'",
        "n": str(rng.randint(2, 4)), "ext": rng.choice(EXTENSIONS), "key": keys[0], "key2": keys[1],
        "app": rng.choice(words.apps), "button": buttons[0], "button2": buttons[1], "field": rng.choice(words.fields),
        "box": rng.choice(words.boxes), "tab": rng.choice(words.tabs), "item": items[0], "item2": items[1],
    }  # fmt: skip


def _others(rng: random.Random, labels: Sequence[str], taken: set[str], count: int) -> list[str]:
    return rng.sample([label for label in labels if label not in taken], count)


def _app_widgets(rng: random.Random, task: Task) -> list[tuple[str, str]]:
    slots, words = task.slots, task.vocabulary
    kinds = [("button", slots["button"]), ("field", slots["field"]), ("checkbox", slots["box"]), ("tab", slots["tab"])]
    kinds += [("button", slots["button2"])] if any(slots["button2"] in clause for clause in task.clauses) else []
    taken = {label for _, label in kinds} | {slots["app"]}
    pools = {"button": words.buttons, "field": words.fields, "checkbox": words.boxes, "tab": words.tabs}
    for _ in range(rng.randint(0, 2)):
        kind = rng.choice(list(pools))
        label = _others(rng, pools[kind], taken, 1)[0]
        taken.add(label)
        kinds.append((kind, label))
    return kinds


def _place(rng: random.Random, widgets: list[tuple[str, str]], opens: str = "") -> list[Widget]:
    """Widgets at positions of a coarse grid, so that none overlaps another, in any order."""
    cells = rng.sample([(column, row) for column in range(8) for row in range(9)], len(widgets))
    placed = [
        Widget(kind, label, 60 + column * 150 + rng.randint(0, 100), 50 + row * 80 + rng.randint(0, 50),
               opens=opens if label == opens else "")
        for (kind, label), (column, row) in zip(widgets, cells, strict=True)
    ]  # fmt: skip
    rng.shuffle(placed)
    return placed


def build_vault(rng: random.Random, task: Task) -> Vault:
    """Folders and files with a few lines each; the files that the task speaks of are there, the new ones are not."""
    slots, words = task.slots, task.vocabulary
    named = [slots["folder"], *(slots["file"].split("/")[:-1])]
    folders = [*named, *_others(rng, words.folders, {*named, slots["new"]}, 3 - len(named))]
    vault = Vault(folders=set(folders))
    names = [f"{folder}/{stem}.{rng.choice(EXTENSIONS)}" for folder in folders for stem in rng.sample(words.stems, 2)]
    names += [slots["file"], slots["file2"]]
    rng.shuffle(names)
    for name in names:
        lines = [" ".join(rng.sample(words.words, rng.randint(2, 5))) for _ in range(rng.randint(3, 6))]
        lines[rng.randrange(len(lines))] += " " + slots["word"].strip("'")  # so that a search finds it in every file
        vault.write(name, "".join(f"{line}\n" for line in lines))
    return vault
