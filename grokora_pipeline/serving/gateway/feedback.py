"""How a session went, told to the gateway (`POST /v1/feedback`) or, if none runs, straight to the recordings."""

from pathlib import Path
from typing import Any, Literal, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.serving.gateway.protocol import api_error
from grokora_pipeline.serving.gateway.recorder import Recorder
from grokora_pipeline.serving.gateway.sessions import session_name
from grokora_pipeline.settings import http_options


class Blame(BaseModel):
    """Which call went wrong, by its receipt or by agent and step, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    call: str | None = None
    agent: str | None = None
    step: int | None = None
    reason: str | None = Field(default=None, max_length=2000)


class Feedback(BaseModel):
    """How a session went: at least one of `status`, `rating` and `blame`.

    A session is named by its id or by the receipt of one of its calls; a bad verdict on a call blames that call.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    session_id: str | None = Field(default=None, min_length=1, max_length=1000)
    call: str | None = Field(default=None, min_length=1, max_length=200)
    status: Literal["success", "failure"] | None = None
    rating: int | None = Field(default=None, ge=1, le=5)
    blame: Blame | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status is None and self.rating is None and self.blame is None:
            raise ValueError("give at least one of 'status', 'rating' and 'blame'")
        if self.session_id is None and self.call is None:
            raise ValueError("'session_id' or 'call' must say what is meant")
        return self

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """The feedback of a command's options; GrokoraError if it cannot be right."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise GrokoraError(api_error(error).message) from None

    def outcome(self) -> dict[str, Any]:
        """The `outcome` of a recording's line."""
        outcome = self.model_dump(exclude={"session_id", "call"}, exclude_none=True)
        bad = self.status == "failure" or (self.rating or 5) < 4
        return outcome | ({"blame": {"call": self.call}} if self.call and bad and not self.blame else {})

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read a request's body; ApiError 400 says which member is wrong."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise api_error(error) from None


def give(feedback: Feedback, gateway: str, key: str | None, folder: Path) -> str:
    """Hand feedback in and say where it went. `session_id` may be `last`: the session that was recorded last.

    A running gateway also counts it for the rollout of a new champion. Raises GrokoraError if no call of the session
    was recorded.
    """
    recorder = Recorder(folder)
    named = feedback.session_id or recorder.session_of(feedback.call or "")
    if not named:
        raise GrokoraError(f"No call {feedback.call!r} was recorded in {folder}.")
    session = recorder.latest() if named == "last" else session_name(named)
    body = {"session_id": session, **feedback.outcome()}
    options = http_options(gateway)
    try:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        response = httpx.post(f"{gateway.rstrip('/')}/v1/feedback", json=body, headers=headers, timeout=10, **options)
    except httpx.TransportError:
        try:
            recorder.outcome(session, feedback.outcome()).result()
        except OSError as error:
            raise GrokoraError(f"The feedback cannot be written to {folder} ({error.strerror}).") from error
        return f"{session}: written to {folder}; no gateway runs at {gateway}."
    if response.status_code == 200:
        return f"{session}: told to the gateway at {gateway}."
    try:
        reason = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):  # it need not be a gateway that listens there
        reason = f"HTTP {response.status_code}"
    raise GrokoraError(f"The gateway at {gateway} refused the feedback: {reason}")
