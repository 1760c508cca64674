"""The vault: folders and files in memory, and a small bash that works in it."""

import fnmatch
import posixpath
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial


class CommandError(Exception):
    """What a command would say on stderr."""


@dataclass(frozen=True, slots=True)
class Shell:
    """What a command line gave, as `subprocess` would report it."""

    stdout: str
    stderr: str = ""
    returncode: int = 0


@dataclass(slots=True)
class Vault:
    """Files by relative path with their text; the order of `files` is the order of their last change, oldest first."""

    files: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def write(self, path: str, text: str) -> None:
        """Create or replace a file; it becomes the newest one."""
        parent = posixpath.dirname(path)
        if path in self.folders:
            raise CommandError(f"{path}: Is a directory")
        if parent and parent not in self.folders:
            raise CommandError(f"{path}: No such file or directory")
        self.files.pop(path, None)
        self.files[path] = text

    def read(self, path: str) -> str:
        """The text of a file."""
        name = _norm(path)
        if name in self.folders:
            raise CommandError(f"{path}: Is a directory")
        if name not in self.files:
            raise CommandError(f"{path}: No such file or directory")
        return self.files[name]

    def children(self, folder: str) -> list[str]:
        """Names directly in a folder ("" is the vault), sorted."""
        prefix = f"{folder}/" if folder else ""
        below = [path[len(prefix) :] for path in (*self.files, *self.folders) if path.startswith(prefix)]
        return sorted(name for name in below if name and "/" not in name)

    def matching(self, pattern: str) -> list[str]:
        """Paths of the files whose name matches a shell pattern, sorted (Grokputer's `scan_vault`)."""
        return sorted(path for path in self.files if fnmatch.fnmatchcase(posixpath.basename(path), pattern))

    def run(self, line: str) -> Shell:
        """Run a command line: commands joined by `|`, `&&` or `;`, with `>` and `>>`. Never raises."""
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
            lexer.whitespace_split = True
            return self._run(list(lexer))
        except ValueError as error:
            return Shell("", f"bash: syntax error: {error}\n", 2)

    def _run(self, tokens: list[str]) -> Shell:
        stdout, stdin, words = "", "", list[str]()
        for part in [*tokens, ";"]:
            if part not in {"|", "&&", ";"}:
                words.append(part)
                continue
            try:
                out = self._one(words, stdin) if words else ""
            except CommandError as error:
                return Shell(stdout, f"{words[0]}: {error}\n", 127 if str(error) == "command not found" else 1)
            stdin, words = (out, []) if part == "|" else ("", [])
            stdout += "" if part == "|" else out
        return Shell(stdout)

    def _one(self, words: list[str], stdin: str) -> str:
        target = next((index for index, word in enumerate(words) if word in {">", ">>"}), len(words))
        redirect, words = words[target:], words[:target]
        if redirect and len(redirect) != 2:
            raise CommandError("syntax error near unexpected token")
        if not words or words[0] not in COMMANDS:
            raise CommandError("command not found")
        options = [word for word in words[1:] if word.startswith("-") and len(word) > 1]
        arguments = [word for word in words[1:] if word not in options]
        out = COMMANDS[words[0]](self, options, arguments, stdin)
        if not redirect:
            return out
        path = _norm(redirect[1])
        self.write(path, (self.files.get(path, "") if redirect[0] == ">>" else "") + out)
        return ""

    def paths(self, arguments: list[str]) -> list[str]:
        """Arguments as paths, with shell patterns expanded where something matches."""
        paths = list[str]()
        for argument in arguments:
            hits = sorted(path for path in self.files if fnmatch.fnmatchcase(path, argument)) if "*" in argument else []
            paths += hits or [_norm(argument)]
        return paths

    def transfer(self, _: list[str], arguments: list[str], __: str, *, keep: bool) -> str:
        """`cp` (`keep`) and `mv` of files (and of whole folders with `mv`) to a file name or into a folder."""
        if len(arguments) < 2:
            raise CommandError("missing destination file operand")
        *sources, target = self.paths(arguments)
        if (len(sources) > 1 or arguments[-1].endswith("/")) and target not in self.folders:
            raise CommandError(f"target '{arguments[-1]}': No such directory")
        for source in sources:
            goal = posixpath.join(target, posixpath.basename(source)) if target in self.folders else target
            if source in self.folders and not keep:
                self._move_folder(source, goal)
            elif source != goal:
                self.write(goal, self.read(source))
                if not keep:
                    del self.files[source]
        return ""

    def _move_folder(self, source: str, goal: str) -> None:
        inside = [path for path in (*self.files, *self.folders) if path.startswith(f"{source}/")]
        self.folders = {path for path in self.folders if path not in {source, *inside}} | {goal}
        for path in inside:
            moved = goal + path[len(source) :]
            if path in self.files:
                self.files[moved] = self.files.pop(path)
            else:
                self.folders.add(moved)


def _norm(path: str) -> str:
    """A path relative to the vault: `./a`, `vault/a` and `a/` are `a`; the vault itself is "" and the top."""
    clean = posixpath.normpath("/" + path).lstrip("/").removeprefix("vault/")
    return "" if clean == "vault" else clean


def _ls(vault: Vault, options: list[str], arguments: list[str], _: str) -> str:
    folder = _norm(arguments[0]) if arguments else ""
    if folder in vault.files:
        return f"{arguments[0]}\n"
    if folder and folder not in vault.folders:
        raise CommandError(f"cannot access '{arguments[0]}': No such file or directory")
    names = vault.children(folder)
    if any("t" in option for option in options):
        order = [path for path in reversed(vault.files) if posixpath.dirname(path) == folder]
        names = [posixpath.basename(path) for path in order]
    return _lines(names)


def _cat(vault: Vault, _: list[str], arguments: list[str], stdin: str) -> str:
    return "".join(vault.read(path) for path in vault.paths(arguments)) if arguments else stdin


def _find(vault: Vault, options: list[str], arguments: list[str], _: str) -> str:
    pattern = arguments[-1] if "-name" in options else "*"
    top = _norm(arguments[0]) if arguments and not ("-name" in options and len(arguments) == 1) else ""
    hits = vault.matching(pattern)
    return _lines([path for path in hits if not top or path.startswith(f"{top}/")])


def _mkdir(vault: Vault, options: list[str], arguments: list[str], _: str) -> str:
    for path in map(_norm, arguments):
        if path in vault.files or (path in vault.folders and "-p" not in options):
            raise CommandError(f"cannot create directory '{path}': File exists")
        parent = posixpath.dirname(path)
        if parent and parent not in vault.folders and "-p" not in options:
            raise CommandError(f"cannot create directory '{path}': No such file or directory")
        parts = path.split("/")
        vault.folders |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return ""


def _rm(vault: Vault, options: list[str], arguments: list[str], _: str) -> str:
    for path in vault.paths(arguments):
        if path in vault.folders and any("r" in option for option in options):
            vault.files = {name: text for name, text in vault.files.items() if not name.startswith(f"{path}/")}
            vault.folders = {name for name in vault.folders if name != path and not name.startswith(f"{path}/")}
        else:
            vault.read(path)
            del vault.files[path]
    return ""


def _touch(vault: Vault, _: list[str], arguments: list[str], __: str) -> str:
    for path in map(_norm, arguments):
        vault.write(path, vault.files.get(path, ""))
    return ""


def _echo(_: Vault, options: list[str], arguments: list[str], __: str) -> str:
    return " ".join([*(option for option in options if option != "-n"), *arguments]) + "\n"


def _grep(vault: Vault, options: list[str], arguments: list[str], stdin: str) -> str:
    if not arguments:
        raise CommandError("usage: grep PATTERN FILE")
    fold = any("i" in option for option in options)
    word = arguments[0].lower() if fold else arguments[0]
    text = "".join(vault.read(path) for path in vault.paths(arguments[1:])) if arguments[1:] else stdin
    hits = [line for line in text.splitlines() if word in (line.lower() if fold else line)]
    return f"{len(hits)}\n" if "-c" in options else _lines(hits)


def _wc(vault: Vault, options: list[str], arguments: list[str], stdin: str) -> str:
    text = "".join(vault.read(path) for path in vault.paths(arguments)) if arguments else stdin
    counts = {"-l": text.count("\n"), "-w": len(text.split()), "-c": len(text.encode())}
    shown = [str(counts[option]) for option in counts if option in options] or [str(count) for count in counts.values()]
    return " ".join([*shown, *arguments]) + "\n"


def _head_or_tail(vault: Vault, options: list[str], arguments: list[str], stdin: str, *, last: bool) -> str:
    """The first or last lines: `-n 3 FILE`, `-3 FILE` or `FILE` (ten lines)."""
    count = arguments[0] if "-n" in options and arguments else next((o[1:] for o in options if o != "-n"), "10")
    rest = arguments[1:] if "-n" in options else arguments
    if not count.isdigit():
        raise CommandError(f"invalid number of lines: '{count}'")
    lines = _cat(vault, [], rest, stdin).splitlines()
    return _lines(lines[max(len(lines) - int(count), 0) :] if last else lines[: int(count)])


def _sort(vault: Vault, options: list[str], arguments: list[str], stdin: str) -> str:
    return _lines(sorted(_cat(vault, [], arguments, stdin).splitlines(), reverse="-r" in options))


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


COMMANDS: dict[str, Callable[[Vault, list[str], list[str], str], str]] = {
    "ls": _ls, "cat": _cat, "find": _find, "mv": partial(Vault.transfer, keep=False),
    "cp": partial(Vault.transfer, keep=True), "mkdir": _mkdir, "rm": _rm, "touch": _touch,
    "echo": _echo, "grep": _grep, "wc": _wc, "head": partial(_head_or_tail, last=False),
    "tail": partial(_head_or_tail, last=True), "sort": _sort,
}  # fmt: skip
