"""The vault: folders and files in memory, and a small bash that works in it."""

import fnmatch
import posixpath
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field


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
        out = COMMANDS[words[0]](self, words[0], options, arguments, stdin)
        if not redirect:
            return out
        path = _norm(redirect[1])
        self.write(path, (self.files.get(path, "") if redirect[0] == ">>" else "") + out)
        return ""

    def paths(self, arguments: list[str]) -> list[str]:
        """Arguments as paths, with shell patterns expanded if something matches."""
        paths = list[str]()
        for argument in arguments:
            hits = sorted(path for path in self.files if fnmatch.fnmatchcase(path, argument)) if "*" in argument else []
            paths += hits or [_norm(argument)]
        return paths

    def transfer(self, arguments: list[str], *, keep: bool) -> None:
        """`cp` (`keep`) and `mv` of files (and of whole folders with `mv`) to a file name or into a folder."""
        if len(arguments) < 2:
            raise CommandError("missing destination file operand")
        *sources, target = self.paths(arguments)
        if (len(sources) > 1 or arguments[-1].endswith("/")) and target not in self.folders:
            raise CommandError(f"target '{arguments[-1]}': No such directory")
        for source in sources:
            goal = posixpath.join(target, posixpath.basename(source)) if target in self.folders else target
            if source in self.folders and not keep:
                inside = (path for path in (*self.files, *self.folders) if path.startswith(f"{source}/"))
                moved = {path: goal + path[len(source) :] for path in inside}
                self.folders = {moved.get(path, path) for path in self.folders - {source}} | {goal}
                self.files |= {moved[path]: self.files.pop(path) for path in moved if path in self.files}
            elif source != goal:
                self.write(goal, self.read(source))
                if not keep:
                    del self.files[source]


def _norm(path: str) -> str:
    """A path relative to the vault: `./a`, `vault/a` and `a/` are `a`; the vault itself is "" and the top."""
    clean = posixpath.normpath("/" + path).lstrip("/").removeprefix("vault/")
    return "" if clean == "vault" else clean


def _change(vault: Vault, name: str, options: list[str], arguments: list[str], _: str) -> str:
    """The commands that change the vault, and print nothing."""
    if name in {"cp", "mv"}:
        vault.transfer(arguments, keep=name == "cp")
        return ""
    for path in vault.paths(arguments) if name == "rm" else map(_norm, arguments):
        if name == "touch":
            vault.write(path, vault.files.get(path, ""))
        elif name == "mkdir":
            if path in vault.files or (path in vault.folders and "-p" not in options):
                raise CommandError(f"cannot create directory '{path}': File exists")
            parent = posixpath.dirname(path)
            if parent and parent not in vault.folders and "-p" not in options:
                raise CommandError(f"cannot create directory '{path}': No such file or directory")
            parts = path.split("/")
            vault.folders |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
        elif path in vault.folders and any("r" in option for option in options):
            vault.files = {file: text for file, text in vault.files.items() if not file.startswith(f"{path}/")}
            vault.folders = {one for one in vault.folders if one != path and not one.startswith(f"{path}/")}
        else:
            vault.read(path)  # says what is wrong with it
            del vault.files[path]
    return ""


def _show(vault: Vault, name: str, options: list[str], arguments: list[str], _: str) -> str:
    """The commands that print names, or their own arguments."""
    if name == "echo":
        return " ".join([*(option for option in options if option != "-n"), *arguments]) + "\n"
    if name == "find":
        if "-name" in options and not arguments:
            raise CommandError("missing argument to '-name'")
        top = _norm(arguments[0]) if arguments and not ("-name" in options and len(arguments) == 1) else ""
        paths = vault.matching(arguments[-1] if "-name" in options else "*")
        return _lines([path for path in paths if not top or path.startswith(f"{top}/")])
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


def _filter(vault: Vault, name: str, options: list[str], arguments: list[str], stdin: str) -> str:
    """The commands that print text of files, or of the command before them if no file is named."""
    pattern, count = "", "10"
    if name == "grep":
        if not arguments:
            raise CommandError("usage: grep PATTERN FILE")
        pattern, *arguments = arguments
    elif name in {"head", "tail"}:  # `-n 3 FILE`, `-3 FILE` or `FILE` (ten lines)
        if "-n" in options and arguments:
            count, *arguments = arguments
        else:
            count = next((option[1:] for option in options if option != "-n"), count)
        if not count.isdigit():
            raise CommandError(f"invalid number of lines: '{count}'")
    text = "".join(vault.read(path) for path in vault.paths(arguments)) if arguments else stdin
    if name == "cat":
        return text
    if name == "wc":
        sizes = {"-l": text.count("\n"), "-w": len(text.split()), "-c": len(text.encode())}
        shown = [sizes[option] for option in sizes if option in options] or sizes.values()
        return " ".join([*map(str, shown), *arguments]) + "\n"
    lines = text.splitlines()
    if name == "sort":
        return _lines(sorted(lines, reverse="-r" in options))
    if name == "grep":
        fold = any("i" in option for option in options)
        lines = [line for line in lines if (pattern.lower() in line.lower() if fold else pattern in line)]
        return f"{len(lines)}\n" if "-c" in options else _lines(lines)
    return _lines(lines[: int(count)] if name == "head" else lines[max(len(lines) - int(count), 0) :])


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


_Command = Callable[[Vault, str, list[str], list[str], str], str]  # vault, name, options, arguments, standard input
COMMANDS: dict[str, _Command] = {
    **dict.fromkeys(("cp", "mkdir", "mv", "rm", "touch"), _change),
    **dict.fromkeys(("echo", "find", "ls"), _show),
    **dict.fromkeys(("cat", "grep", "head", "sort", "tail", "wc"), _filter),
}
