"""`session_logs`: every log below the root, as redacted turns in Parquet, one file a day."""

import json
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    code_version,
    columns,
    plain_errors,
    read_json,
    result,
    table,
    warning,
    write_json,
)
from grokora_pipeline.assets.sources import LOG_FILES
from grokora_pipeline.datasets.imports import free_name, import_rows
from grokora_pipeline.errors import GrokoraError, counted
from grokora_pipeline.execution.process import NODE_RETRIES
from grokora_pipeline.sessions.ingest import IngestReport, ingest
from grokora_pipeline.sessions.redaction.audit import surviving_secrets
from grokora_pipeline.store import file_sha256

KEY = "session_logs"
AUDIT = "audit.json"
SCANNER = f"kingfisher {version('kingfisher-secret-scanner')}"  # a day is audited anew by another release's rules
_CHECKS = {  # `no_secret_survives` is blocking: it is asked before the publication
    "readable_logs": "At least one turn was read.",
    "no_secret_survives": "A second scanner finds none.",
    "nothing_quarantined": "Every log file could be read whole.",
    "every_call_has_an_agent": "agents.yaml knows every agent of the logs.",
}
_COLUMNS = columns(
    turn_id="string: SHA-256 of the turn's content",
    session_id="string: the session, redacted",
    agent="string: who was called; null if nobody's rules recognise the call",
    step="int64: the call's place in its session",
    started_at="string: UTC, ISO 8601",
    source_file="string: the log, relative to its root",
    source_sha256="string: the hash of the log's bytes",
    source_format="string: which reader read it",
    line="int64: where in the file the call begins",
    task="string: what the session was to do",
    prompt="string: JSON list of chat messages",
    tools="string: JSON list of tool schemas, or null",
    completion="string: JSON assistant message",
    status="string: success, failure or unknown, as its file says; read_turns joins the session's verdict",
    rating="int8: 1 to 5, or null",
    blamed="bool: this step is the one that went wrong",
    step_failed="bool: the step's own result was an error",
    completeness="string: what of the prompt was in the log: whole, reconstructed, delta, cut or lost",
    tools_known="string: recorded, inferred from the calls, or none",
    recorded_agent="string: the agent's name in the log, kept even if it is no agent's here",
    model="string: the model that answered",
    call="string: the id of the call's receipt",
    parent_session_id="string: the session that started this one",
    result_known="bool: the log holds the results of the tool calls",
    redactions="string: JSON, how many values of which kind were replaced",
    prompt_id="string: hash of the prompt, by which a call that stands in two logs is recognised",
    answer_id="string: hash of the answer, likewise",
    calls_id="string: hash of the tool calls, by which their results are found in a later prompt",
    shown_id="string: hash of the calls whose results end the prompt",
    shown_failed="bool: one of these results was an error",
)


def session_logs_asset(project: Project) -> dg.AssetsDefinition:
    """The `session_logs` asset of a project."""

    @dg.asset(
        **project.identity(KEY, "sources"),
        deps=[project.key(LOG_FILES)],
        kinds={"python", "parquet"},
        metadata=_COLUMNS,
        code_version=code_version([(agent.name, agent.match.model_dump()) for agent in project.agents]),
        retry_policy=NODE_RETRIES,
        check_specs=project.check_specs(KEY, _CHECKS, blocking="no_secret_survives"),
    )
    def session_logs(context: dg.AssetExecutionContext) -> Iterator[AssetResult | dg.AssetCheckResult]:
        """Turns (one LLM call each) of all sessions, redacted, with their outcome and the file and line they came from.

        The audit comes before the publication: if it finds a secret, `current` stays where it was and the step fails.
        """
        settings, store = project.settings, project.store
        previous = store.current(KEY)
        with plain_errors(), store.stage(KEY) as staged:
            report = ingest(
                settings.logs,
                project.agents,
                previous.path if previous else None,
                staged,
                settle_seconds=settings.settle_seconds,
            )
            secrets = audit(staged, previous.path if previous else None)
            if secrets:  # the check's verdict is recorded although nothing is materialized
                yield _no_secret_survives(report, secrets)
                first = secrets[0]
                raise GrokoraError(
                    f"{counted(len(secrets), 'secret')} survived the redaction, the first ({first['rule']}) in "
                    f"{first['source_file']}, line {first['line']}; nothing was published. Please report that kind, "
                    "and put the file elsewhere."
                )
            artifact = store.publish(KEY, report.version, staged)
        sessions, read = counted(report.sessions, "session"), counted(report.files, "file")
        context.log.info(f"{counted(report.turns, 'turn')} of {sessions} from {read}.")
        checks = [*_checks(report, project.agents), _no_secret_survives(report, secrets)]
        yield result(project, artifact, _metadata(report, artifact.path, project), checks)

    return session_logs


def audit(staged: Path, previous: Path | None) -> list[dict[str, Any]]:
    """The secrets that a second scanner finds in a folder of turns, over all its days.

    A day's verdict is kept beside its table (`audit.json`) and is taken over only for a file with the same bytes.
    """
    earlier = read_json(previous / AUDIT) if previous and (previous / AUDIT).is_file() else {}
    known = earlier["days"] if earlier.get("scanner") == SCANNER else {}
    days = {path.stem: file_sha256(path) for path in sorted((staged / "turns").glob("*.parquet"))}
    kept = {day: known[day]["secrets"] for day, sha256 in days.items() if known.get(day, {}).get("sha256") == sha256}
    unseen = [day for day in days if day not in kept]
    secrets = list(surviving_secrets(staged, unseen)) if unseen else []
    if not secrets:
        verdicts = {day: {"sha256": sha256, "secrets": kept.get(day, [])} for day, sha256 in days.items()}
        write_json(staged / AUDIT, {"scanner": SCANNER, "days": verdicts})
    return [finding for findings in kept.values() for finding in findings] + secrets


def _metadata(report: IngestReport, folder: Path, project: Project) -> dict[str, Any]:
    files = import_rows(folder, project.agents)
    return {
        "imports": table(sorted(files, key=lambda row: row["calls"] - row["learnt"], reverse=True)),
        "dagster/row_count": report.turns,
        "sessions": report.sessions,
        "files": report.files,
        "days_rebuilt": len(report.days_rebuilt),
        "days_kept": len(report.days_kept),
        "by_agent": dict(report.by_agent),
        "by_format": dict(report.by_format),
        "by_status": dict(report.by_status),
        "verdicts_without_session": report.unheard_verdicts,
        "skipped": dict(report.skipped),
        "copies": report.copies,
        "left_out": dict(report.left_out),
        "redactions": dict(report.redactions),
        "screenshots_dropped": report.screenshots_dropped,
        "quarantine": table(report.quarantine),
    }


def _no_secret_survives(report: IngestReport, secrets: list[dict[str, Any]]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="no_secret_survives",
        passed=not secrets,
        metadata={"days": len(report.turns_per_day), "found": table(secrets)},
        description=f"{counted(len(secrets), 'secret was', 'secrets were')} found in what was stored"
        + ("; please report the kind of the first." if secrets else "."),
    )


def _checks(report: IngestReport, agents: Iterable[AgentSpec]) -> list[dg.AssetCheckResult]:
    names, quarantined = report.by_recorded_agent, report.quarantined
    without_agent = "Every call belongs to an agent of agents.yaml."
    if names:
        some = [f"{name or 'without a name'} ({count:,})" for name, count in list(names.items())[:5]]
        rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
        without_agent = (
            f"{counted(sum(names.values()), 'call belongs', 'calls belong')} to no agent: {', '.join(some)}{rest}; the "
            "metadata `agents.yaml` holds the lines to add."
        )
    return [
        dg.AssetCheckResult(
            check_name="readable_logs",
            passed=report.turns > 0,
            metadata={"turns": report.turns},
            description=f"{counted(report.turns, 'turn was', 'turns were')} read from {counted(report.files, 'file')}.",
        ),
        warning(
            "nothing_quarantined",
            quarantined == 0,
            f"{counted(quarantined, 'place')} could not be read whole; the table `quarantine` names what is wrong.",
        ),
        warning(
            "every_call_has_an_agent",
            not names,
            without_agent,
            **{"calls": dict(names), "agents.yaml": dg.MetadataValue.md(_missing_agents(report, agents))},
        ),
    ]


def _missing_agents(report: IngestReport, agents: Iterable[AgentSpec]) -> str:
    """The lines of agents.yaml that would give the calls their agents, as a code block."""
    lines, taken = [], {agent.name for agent in agents}
    for name in report.by_recorded_agent:
        plain = free_name(name, taken)
        taken.add(plain)
        match = "{system: [a pattern of its system prompt]}" if not name else f"{{names: [{json.dumps(name)}]}}"
        lines.append(f"  {plain}: {{description: what it does, match: {match}}}")
    return "```yaml\nagents:\n" + "\n".join(lines) + "\n```"
