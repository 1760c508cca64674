"""What a person is told: the one exception whose text says what is wrong, where and what to do, and counts in words."""

import errno
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

# A disk that takes no more (full, a quota, `ulimit -f`), and files and folders that are read-only or somebody else's.
_REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
}


class GrokoraError(Exception):
    """A mistake the user can mend. Commands print its text alone, without a stack trace, and exit with 2."""


def counted(count: int, one: str, many: str = "") -> str:
    """A count with what is counted: "1 call", "2,454 calls"; `many` where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def one_line(error: Exception, most: int = 200) -> str:
    """What an error says, in one line of so many characters at most, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")[:most]


def first_mistake(error: "ValidationError") -> tuple[list[str], str, Any]:
    """(the keys above it, the reason, the value) of the first mistake that pydantic found."""
    first = error.errors()[0]
    keys = [str(key) for key in first["loc"]]
    return keys, first["msg"].removeprefix("Value error, ").rstrip("."), first.get("input")


def disk_refusal(error: Exception) -> str:
    """The sentence for an error of a disk or folder that cannot be used as it is; "" for any other error."""
    number, path, text = getattr(error, "errno", None), getattr(error, "filename", None), str(error)
    # safetensors, which is Rust, and `shutil.copytree` keep the number in their texts alone
    if number is None and (named := re.search(r"(?:\(os error |\[Errno )(\d+)", text)):
        number = int(named[1])
    # torch.save drops the system's reason: a stream that fails is all it says
    torn = re.search(r"PytorchStreamWriter failed|iostream error|inline_container.*unexpected pos", text)
    if number not in _REFUSALS and not torn:
        return ""
    reason = os.strerror(number) if number else "a write failed"
    return (
        f"{path or 'The disk'} cannot be used ({reason}): look at its path, its owner and the free space, and start "
        "again; what is finished is kept."
    )
