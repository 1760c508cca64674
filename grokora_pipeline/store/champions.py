"""Who is in service: the `champion` pointer of each agent, and what may move it."""

from dataclasses import dataclass
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Artifact, Store

BASE = "base"  # the version that means: neither adapter nor prompt, the base model answers
PROMPT_PREFIX = "prompt-"  # of versions that are a fixed prompt before the base model or before an adapter
BESIDE_FILE = "adapter.json"  # of a prompt's folder: the version of the adapter that it stands before
_POINTER, _KEPT = "champion", "kept"


@dataclass(frozen=True, slots=True)
class Registry:
    """The champions of a store."""

    store: Store

    def in_service(self, agent: str) -> Artifact | None:
        """The adapter that answers for an agent, alone or with a fixed prompt; None if the base model answers."""
        version = self.adapter_version(agent, self.version(agent))
        return None if version == BASE else self.store.find(f"{agent}/lora_adapter", version)

    def prompt(self, agent: str) -> Artifact | None:
        """The fixed prompt in service for an agent, whose `prompt.json` says it; None if there is none."""
        return self.store.find(f"{agent}/prompt", self.version(agent))

    def version(self, agent: str) -> str:
        """The version in service, an adapter's or a prompt's.

        `base` if there is none, if it was deleted, or if it was trained on another model than the present base.
        """
        record = self.record(agent)
        return str(record["version"]) if record and self.serves(agent, record["version"]) else BASE

    def adapter_version(self, agent: str, version: str) -> str:
        """The adapter that answers if a version is in service: a prompt's names one, or `base`."""
        if not version.startswith(PROMPT_PREFIX):
            return version  # content hashes are hexadecimal, so no adapter's begins like a prompt's
        prompt = self.store.find(f"{agent}/prompt", version)
        if prompt is None or not (prompt.path / BESIDE_FILE).is_file():
            return BASE
        return str(prompt.read_json(BESIDE_FILE)["version"])

    def record(self, agent: str) -> dict[str, Any] | None:
        """The pointer's record, with the action that set it and why; None if there never was a champion."""
        return self.store.pointer(f"{agent}/champion", _POINTER)

    def history(self, agent: str) -> list[dict[str, Any]]:
        """Every promotion, rollback and pin, oldest first."""
        return self.store.history(f"{agent}/champion", _POINTER)

    def events(self, agent: str) -> list[dict[str, Any]]:
        """The history, and between its lines every challenger that was not promoted, with the decision; by time."""
        kept = [{**record, "action": "keep"} for record in self.store.history(f"{agent}/champion", _KEPT)]
        return sorted([*self.history(agent), *kept], key=lambda record: str(record["at"]))

    def look(self, agent: str, challenger: str, rows: str | None = None) -> int:
        """The n-th look at this agent's adapters that one at a challenger is: 1 for the first.

        `rows` names the held-out rows. The same adapter by the same rows is the same look at every try; by other rows
        it is another one, or whoever looks again as the logs grow would see luck sooner or later. Decisions of before
        rows were named are of any rows, as None is.
        """
        judged = dict[tuple[str, str | None], None]()  # in order
        for record in self.events(agent):
            if "decision" in record:
                versions = record["decision"].get("versions", {})
                # if a prompt was promoted, the adapter that was judged beside it stands in the decision
                judged[versions.get("adapter") or record["version"], versions.get("rows")] = None
        for look, (adapter, known) in enumerate(judged, 1):
            if adapter == challenger and (known == rows or None in (known, rows)):
                return look
        return len(judged) + 1

    def refusal(self, agent: str, version: str) -> str:
        """Why an adapter may not be promoted whatever its report says: the agent is pinned, or it was rolled back."""
        record = self.record(agent)
        if record and record.get("pinned"):
            return f"{agent} is pinned to {record['version']}; grokora champion unpin {agent} lets the gate act again"
        if any(past["action"] == "rollback" and past["replaced"] == version for past in self.history(agent)):
            return f"{version} was rolled back before; only a new adapter can be promoted"
        return ""

    def promote(self, agent: str, version: str, reason: str, decision: dict[str, Any]) -> None:
        """Put an adapter, or a published prompt, in service; promoting the one in service again changes nothing."""
        with self.store.lock:
            record = self.record(agent)
            if not record or record["version"] != version:
                self._point(agent, version, action="promote", reason=reason, decision=decision)

    def keep(self, agent: str, challenger: str, reason: str, decision: dict[str, Any]) -> None:
        """Record that a challenger was not promoted, why, and on what evidence; who is in service stays so."""
        record = self.record(agent)
        if not record or record["version"] != challenger:
            self.store.point(f"{agent}/champion", _KEPT, challenger, reason=reason, decision=decision)

    def before(self, agent: str) -> str:
        """The version that a rollback goes back to: the last other one that there still is, else the base."""
        now = self.record(agent) or {}
        earlier = [past["version"] for past in self.history(agent) if past["version"] != now.get("version")]
        return next((version for version in reversed(earlier) if self.serves(agent, version)), BASE)

    def rollback(self, agent: str, to: str | None = None, why: str = "", of: str = "") -> str:
        """Go back to an earlier champion (the last other one, else the base); returns the version now in service.

        With `of` only if that version is in service still: of two gateways that refuse one champion, one rolls it back.
        GrokoraError if there never was a champion, or if `to` is none that can be served.
        """
        with self.store.lock:
            now = self.record(agent)
            if now is None:
                raise GrokoraError(f"{agent} never had a champion, so there is nothing to roll back.")
            if of and now["version"] != of:
                return str(now["version"])
            target = to or self.before(agent)
            if not self.serves(agent, target):
                raise GrokoraError(
                    f"{agent} has no adapter {target!r} of the present base model; grokora champion history {agent} "
                    "lists them."
                )
            reason = f"rolled back from {now['version']}{': ' if why else ''}{why}"
            self._point(agent, target, action="rollback", reason=reason, replaced=now["version"])
            return target

    def pin(self, agent: str, pinned: bool = True) -> None:
        """Keep the present champion whatever the gate says, or let the gate act again."""
        with self.store.lock:
            now = self.record(agent)
            version = now["version"] if now else BASE
            self._point(agent, version, action="pin" if pinned else "unpin", reason="by hand", pinned=pinned)

    def exists(self, agent: str, version: str) -> bool:
        """Whether a version is in the store: neither its prompt nor its adapter was deleted."""
        if version.startswith(PROMPT_PREFIX) and not self.store.find(f"{agent}/prompt", version):
            return False
        adapter = self.adapter_version(agent, version)
        return adapter == BASE or self.store.find(f"{agent}/lora_adapter", adapter) is not None

    def serves(self, agent: str, version: str, base: str | None = None) -> bool:
        """Whether a version can be served on a version of `base_model` (None: the present one): it exists and fits."""
        adapter = self.store.find(f"{agent}/lora_adapter", self.adapter_version(agent, version))
        return self.exists(agent, version) and (adapter is None or self.fits(adapter, base))

    def of_another_base(self, agent: str) -> str:
        """The version that the pointer names, if it answers no longer since the base model was changed; else ""."""
        version = str((self.record(agent) or {}).get("version", BASE))
        return version if self.exists(agent, version) and not self.serves(agent, version) else ""

    def fits(self, adapter: Artifact, base: str | None = None) -> bool:
        """Whether an adapter was trained on the weights of this version of `base_model`; None: of the present one.

        On other weights of the same shape it would answer, and wrongly. True if the store does not say.
        """
        try:
            trained = adapter.read_json("training.json").get("versions", {}).get("base_model")
        except FileNotFoundError:
            trained = None
        base = base or (self.store.pointer("base_model", "current") or {}).get("version")
        if trained is None or base is None or trained == base:
            return True
        # a version is of the chat template, too, which another release may write otherwise
        bases = [self.store.find("base_model", version) for version in (trained, base)]
        hashes = [one.read_json("base_model.json").get("content_hash") if one else None for one in bases]
        return None not in hashes and hashes[0] == hashes[1]

    def _point(self, agent: str, version: str, **facts: Any) -> None:
        self.store.point(f"{agent}/champion", _POINTER, version, **{"replaced": None, "pinned": False, **facts})
