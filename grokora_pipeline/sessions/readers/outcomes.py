"""How a session went, in whatever words: outcomes, exit statuses, ratings, thumbs, and the named scores of platforms.

One list for all readers. What nobody here understands is reported, and its session is not learnt from.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from grokora_pipeline.sessions.readers.common import first_of, name_text, whole_number
from grokora_pipeline.sessions.turns import Problem, Status, Verdict

_WORDS: dict[Status, str] = {
    "success": "success successful succeeded succeeds completed complete done finished passed pass ok okay good solved "
    "resolved achieved accepted accept approved merged fixed correct won true yes 1 1.0 ✅ ✓ ✔",
    "failure": "failure failed fail fails failing error errors errored exception crash crashed timeout timed_out "
    "time_out timedout expired cancelled canceled cancel aborted abort interrupted killed terminated stopped halted "
    "blocked quit tripped throttled limited partial partially partially_completed incomplete unfinished "
    "unsuccessful unsolved unresolved unfixed gave_up given_up stuck abandoned rejected reverted refused refusal "
    "denied declined bad wrong incorrect invalid unsafe lost limit max exceeded overflow truncated cut length "
    "content_filter oom sigkill not no false 0 0.0 -1 ❌ ✗ ✘",
    "unknown": "unknown none null n/a na pending running in_progress queued open started unset undefined",
}
_OUTCOMES: dict[str, Status] = {word: status for status, words in _WORDS.items() for word in words.split()} | {
    "": "unknown"
}
# Words that say nothing of their own beside one that does: `task_completed`, `RESOLVED_FULL`, `tests passed`.
_NEUTRAL = {"agent", "all", "early", "exit", "full", "fully", "goal", "issue", "is", "reached", "run", "session"}
_NEUTRAL |= {"status", "task", "test", "tests", "was"}
_NO_FAILURE = re.compile(r"(?<![a-z0-9])(?:no|0|zero|without|without_any)_(?:errors?|failures?|failed)(?![a-z0-9])")
_SEPARATORS = re.compile(r"[\s_-]+")
_MARKS, _CAMEL = re.compile(r"[\s_:;,!()\[\]-]+"), re.compile(r"(?<=[a-z])(?=[A-Z])")  # `taskFailed`, `FAILED: 3 tests`
_SKIN_TONES = dict.fromkeys(range(0x1F3FB, 0x1F400))
_RATING = re.compile(
    r"(?P<points>\d{1,3}(?:[.,]\d+)?)\s*(?:(?:/|out of|of)\s*(?P<most>5|10|100)(?:[.,]0)?|(?P<percent>%))?\s*"
    r"(?:stars?|points?)?",
    re.IGNORECASE,
)
_STARS = re.compile(r"([★⭐\U0001f31f]\ufe0f?){1,5}☆{0,4}")
_LIKED = {"up", "thumb_up", "thumbs_up", "thumbsup", "like", "liked", "upvote", "positive", "great", "excellent", "+1"}
_LIKED |= {"helpful", "satisfied", "happy", "👍", "❤️", "❤", "😀", "😊"}
_DISLIKED = {"down", "thumb_down", "thumbs_down", "thumbsdown", "dislike", "disliked", "downvote", "negative", "poor"}
_DISLIKED |= {"terrible", "unhelpful", "unsatisfied", "unhappy", "👎", "😞", "☹️", "😡"}
# Names of scores of which more is better, and of those that measure something else, or something bad.
_PRAISE = re.compile(
    r"accept|accura|complet|correct|faithful|feedback|goal|grade|help|like|pass|qualit|rating|relevan|resolv|reward|"
    r"satisf|score|solv|success|thumb|vote"
)
_NO_PRAISE = re.compile(
    r"bias|confiden|cost|count|distance|duration|error|fail|halluc|harm|laten|leak|length|num_|perplex|pii|profan|"
    r"refus|risk|seconds|temperature|time|token|toxic|violat"
)


# Members of a record in which platforms keep what was said of it, and members of those that hold the value.
SCORES = (
    *("scores", "feedback_scores", "feedbackScores", "annotations", "annotation", "feedback", "user_feedback"),
    *("rating", "user_rating", "feedback_rating", "vote"),
)
# What a row, or its `info` or `metadata`, may say of how its conversation ended.
_FLAGS = ("resolved", "success", "is_success", "passed", "is_correct", "verified", "solved", "utility")
# Members of which only a failure counts: their good words say that a program did its work, not that it did it well.
_ENDED_BADLY = re.compile(
    r"(?!.*(?:[Uu]n(?:re)?s|[Ii]nc|[Uu]nf|[Nn]ot_))(?:.*[a-z_])?(?:[Ss]uccess(?:ful)?|[Ss]ucceeded|[Oo]utcome|[Vv]erdict|[Jj]udge?ment|[Pp]assed|[Ss]olved|[Cc]orrect|"
    r"[Cc]ompleted|[Ff]inished)|(?:final|run|task|test|session|episode)_?[Ss]tatus|result"
)
_BAD_ENDS = re.compile(
    r"fail(?:ed|ure|s)?|error(?:ed)?|timed?[ _]?out|abort(?:ed)?|cancell?ed|incomplete|unsuccessful", re.I
)
_FLAGS_OR_ANSWERS = ("label", "correct", "target")
_REWARDS = ("reward", "rewards", "score", "final_reward", "total_reward")
_ENDS = ("status", "exit_reason", "termination_reason", "finish_reason", "stop_reason")
_HOLDERS: tuple[str, ...] = (
    "eval",
    "grading",
    "grading_result",
    "gradingResult",
    "info",
    "metadata",
    "extra_info",
    "result",
    "test_result",
    "report",
    "evaluation",
    "verifier_result",
)
_VALUES = ("score", "value", "rating", "avg", "label", "emoji", "thumbs")


def outcome_status(word: object) -> Status | None:
    """What a log's word for an outcome means, for every reader; None for a word that is not understood.

    "unknown" is for words that say that nobody knows yet. Of several words (`AgentState.FINISHED`, `exit_error`) one
    for a failure makes it a failure; a success holds no word that is not understood.
    """
    if isinstance(word, bool):
        return "success" if word else "failure"
    if word is None:
        return "unknown"
    plain = str(word).strip().lower()
    text = _NO_FAILURE.sub("ok", _MARKS.sub("_", _CAMEL.sub("_", str(word)).lower()).strip("_."))
    if (known := _OUTCOMES.get(plain) or _OUTCOMES.get(text)) is not None:
        return known
    last = text.rpartition(".")[2]  # of an enumeration
    words = [_OUTCOMES.get(one) for one in last.split("_") if one not in _NEUTRAL and not one.isdigit()]
    if "failure" in words:
        return "failure"
    return "success" if words and set(words) == {"success"} else None


def exit_status(word: object) -> Status:
    """What the exit status of an agent on a repository's issue says: submitting is no success, any other end a failure.

    SWE-agent writes "submitted (exit_context)" where a limit made it submit what there was.
    """
    text = name_text(word).lower()
    return "unknown" if not text or (text.startswith("submit") and "(" not in text) else "failure"


def stated_in(record: Mapping[str, Any]) -> Status:
    """How a record says that its conversation ended, in itself or in what it holds; "unknown" if nothing says it.

    A reward is from 0 to 1, and what is less than 1 is no success; a score below that range says nothing.
    """
    holders = [record]
    for holder in holders:  # those within a holder, too
        holders += [held for key in _HOLDERS if isinstance(held := holder.get(key), Mapping)]
    # as texts, too: tables and databases write "False" and "0.0"; but a text of these three may be the answer itself
    words = [one.get(key) for one in holders for key in (*_FLAGS, *_ENDS)]
    words += [one[key] for one in holders for key in _FLAGS_OR_ANSWERS if isinstance(one.get(key), bool | int)]
    outcomes = [outcome_status(one["outcome"]) for one in holders if isinstance(one.get("outcome"), str | bool)]
    rewards = [one[key] for one in holders for key in _REWARDS if isinstance(one.get(key), bool | int | float | str)]
    said = [*map(outcome_status, words), *(exit_status(one.get("exit_status")) for one in holders)]
    said += ["failure" for one in holders if one.get("error")]
    ends = (value for one in holders for key, value in one.items() if _ENDED_BADLY.fullmatch(key))
    said += ["failure" for one in ends if one is False or (isinstance(one, str) and _BAD_ENDS.fullmatch(one.strip()))]
    said += [one or "failure" for one in outcomes]  # a word that nobody understands, where an outcome is stated
    with suppress(ValueError):  # a score in words says nothing
        said += ["success" if float(reward) >= 1 else "failure" for reward in rewards if float(reward) >= 0]
    return "failure" if "failure" in said else "success" if "success" in said else "unknown"


def call_failed(record: Mapping[str, Any]) -> bool:
    """Whether the record of a call says that it failed: a status, in words or of HTTP, or an error."""
    status = record.get("status")
    code = whole_number(first_of(record, "response_status", "status_code", "$ai_http_status"))
    return (
        (isinstance(status, str) and outcome_status(status) == "failure")
        or (code or 0) >= 400
        or record.get("$ai_is_error") is True
        or any(record.get(key) for key in ("error", "error_info", "exception", "error_message"))
        or record.get("success") is False
    )


def rating_of(value: object) -> int | None:
    """A rating from 1 to 5, rounded down; "4", "4/5", "8/10", "80 %", "4 stars" and "★★★★" are 4; None for all else."""
    if isinstance(value, str):
        text = value.strip()
        if _STARS.fullmatch(text):
            return sum(text.count(star) for star in "★⭐\U0001f31f")
        if (match := _RATING.fullmatch(text)) is None:
            return None
        points, most = float(match["points"].replace(",", ".")), 100 if match["percent"] else int(match["most"] or 0)
        value = max(1.0, 5 * points / most) if most and 0 < points <= most else points
    number = math.floor(value) if isinstance(value, float) and math.isfinite(value) else whole_number(value)
    return number if number is not None and 1 <= number <= 5 else None


def opinion(value: object) -> tuple[int | None, Status | None]:
    """What a person's rating says: from 1 to 5, or (thumbs, votes, truth values, words) a status.

    The status is "unknown" beside a rating and if there is none, and None if nobody knows what the value says.
    """
    text = _SEPARATORS.sub("_", value.translate(_SKIN_TONES).strip(" !\t\n").lower()) if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and not text):
        return None, "unknown"
    if text in _LIKED:
        return None, "success"
    if text in _DISLIKED or (isinstance(value, int | float) and value <= 0):
        return None, "failure"
    if (rating := rating_of(value)) is not None:
        return rating, "unknown"
    return None, "failure" if re.match(r"_\d|0", text) else None if text.isdigit() else outcome_status(value)


def verdict(
    session: str, where: str, offset: int, *, outcome: object = None, rating: object = None, **more: Any
) -> Iterator[Problem | Verdict]:
    """The verdict that a log states of a session, and a problem for each word in it that nobody understands.

    `more` are members of `Verdict`. Such a word makes it a failure (of a rating: if no outcome stands beside it), and
    so does a bad opinion beside a good outcome.
    """
    status, (number, liked) = outcome_status(outcome), opinion(rating)
    if status is None:
        yield Problem("unknown_outcome", offset, f"{where}: not a word for an outcome; the session is not learnt")
    if liked is None:
        yield Problem("unknown_rating", offset, f"{where}: not a rating from 1 to 5; the session is not learnt")
    said = (status or "failure", liked or ("failure" if status == "unknown" else "unknown"))
    known: Status = next((one for one in ("failure", "success") if one in said), "unknown")
    yield Verdict(session, status=known, rating=number, **more)


def score(name: object, value: object, least: float = 0.5) -> tuple[int | None, Status]:
    """What one score of a platform says of a session, by its name: (rating, status); (None, "unknown") for nothing.

    Truth values and words count, unless the name says that they are of something bad. A number counts if more of it is
    better: 1 is a success, up to `least` it is a failure, and from 1 to 5 it is a rating if the score is called one.
    """
    called = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name_text(name)).lower()
    if _NO_PRAISE.search(called) or value is None:
        return None, "unknown"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not _PRAISE.search(called):
        return None, "unknown"
    if "rating" in called or "star" in called or (is_number and "feedback" in called and value != 1):
        rating, liked = opinion(value)
        return rating, liked or "unknown"
    if isinstance(value, str) and value in ("C", "I", "P", "N"):  # of Inspect's scorers
        return None, "success" if value == "C" else "failure"
    if isinstance(value, int | float):
        return None, "success" if value == 1 else "failure" if value <= least else "unknown"
    return None, opinion(value)[1] or "unknown"


def scores_in(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The named scores and opinions that a platform keeps in a record, whatever it calls them: (name, value)."""
    for key in SCORES:
        if (held := record.get(key)) is None:
            continue
        if isinstance(held, Mapping) and held.keys().isdisjoint(_VALUES):
            yield from ((f"score {name}", _value(one)) for name, one in held.items())
        else:
            for one in held if isinstance(held, list) else [held]:
                name = first_of(one, "name", "key", "feedback_type") if isinstance(one, Mapping) else None
                yield f"{'score' if 'score' in key else key} {name_text(name)}", _value(one)


def _value(one: Any) -> Any:
    for name in ("result", "payload"):  # Phoenix, Weave
        one = one[name] if isinstance(one, Mapping) and isinstance(one.get(name), Mapping) else one
    return first_of(one, *_VALUES) if isinstance(one, Mapping) else one


def scored(scores: Iterable[tuple[object, object]], least: float = 0.5) -> tuple[int | None, Status]:
    """What named scores say together: the lowest rating; a failure if one says so, a success if all that count do."""
    said = [score(name, value, least) for name, value in scores]
    statuses = {status for _, status in said}
    ratings = [rating for rating, _ in said if rating is not None]
    status: Status = "failure" if "failure" in statuses else "success" if "success" in statuses else "unknown"
    return min(ratings, default=None), status
