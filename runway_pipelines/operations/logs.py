"""How the log looks: one JSON object a line on stdout where a machine reads it, Dagster's own text on a terminal.

Only Dagster's own processes (code server, runs) change their log; a program that imports the package keeps its own. The
webserver and the daemon load none of our code: their option ``--log-format json`` does the same.

Our own exceptions are logged with their text, all others with their type alone: a library's text may quote data.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import orjson

from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.tags import PARTITION_TAG, PARTNER_TAG

# Dagster keeps an exception as text. If it begins with one of these, we wrote the rest.
_OURS = ("runway_pipelines.", "dagster._core.definitions.events.Failure:")


class JsonLines(logging.Formatter):
    """A record as one line of JSON; unknown members are left out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        meta = getattr(record, "dagster_meta", None) or {}
        event = meta.get("dagster_event")
        tags = meta.get("job_tags") or {}
        said = getattr(record, "tenant", None)  # ours is text; a library may use the name for something else
        tenant = said if isinstance(said, str) else _tenant(event)
        document = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": meta.get("orig_message") or _message(record),
            "run_id": meta.get("run_id"),
            "job": meta.get("job_name"),
            "step": meta.get("step_key"),
            "tick_of": meta.get("name"),
            "event": event.event_type_value if event is not None else None,
            "partner": tags.get(PARTNER_TAG) or _partner(tenant or tags.get(PARTITION_TAG)),
            "tenant": tenant,
            "errors": [*_errors_of_event(event), *_errors_of_record(record)] or None,
        }
        known = {name: value for name, value in document.items() if value is not None}
        try:
            return orjson.dumps(known, default=str).decode()
        except TypeError:  # a lone surrogate, from a file name that is not UTF-8: the other encoder escapes it
            return json.dumps(known, default=str)


class _Stdout(logging.StreamHandler[TextIO]):
    """Writes to whatever stdout is at that moment: Dagster and tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(JsonLines())

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is always stdout")


def console_logger(name: str, level: str | int) -> logging.Logger:
    """Replaces Dagster's console logger: the same records, as lines of JSON."""
    logger = logging.getLoggerClass()(name, level=level)
    logger.addHandler(_Stdout())
    return logger


def install(log_format: Literal["auto", "json", "text"]) -> bool:
    """Log JSON in this process if it is Dagster's and the format asks for it; returns whether it does now."""
    if log_format == "text" or (log_format == "auto" and sys.stdout.isatty()) or not _is_dagsters_process():
        return False
    from runway_pipelines.dagster_events import replace_console_logger

    replace_console_logger(console_logger)
    root = logging.getLogger()
    if not any(isinstance(handler, _Stdout) for handler in root.handlers):
        others = _Stdout()
        others.addFilter(_is_unhandled)
        root.addHandler(others)
    return True


def _is_dagsters_process() -> bool:
    """Whether this process was started as one of Dagster's commands."""
    main = sys.modules.get("__main__")
    package = getattr(main, "__package__", None) or ""
    return package.split(".")[0].startswith("dagster") or Path(sys.argv[0]).name.startswith("dagster")


def _is_unhandled(record: logging.LogRecord) -> bool:
    """Whether Dagster does not print the record itself: its records reach the root logger as well."""
    top = record.name.split(".")[0]
    return not (top.startswith("dagster") and logging.getLogger(top).handlers)


def _message(record: logging.LogRecord) -> str:
    """The text, its exceptions as `_shown`; arguments that do not fit are left out."""
    text, arguments = str(_safe(record.msg)), record.args
    if not arguments:
        return text
    try:
        if isinstance(arguments, Mapping):
            return text % {name: _safe(argument) for name, argument in arguments.items()}
        return text % tuple(_safe(argument) for argument in arguments)
    except Exception:  # noqa: BLE001 - logging would print the record's raw arguments in place of the line
        return text


def _safe(argument: object) -> object:
    return _shown(argument) if isinstance(argument, BaseException) else argument


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, RunwayError) else type(error).__name__


def _errors_of_record(record: logging.LogRecord) -> Iterator[str]:
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        yield _shown(error)
        error = error.__cause__


def _errors_of_event(event: Any) -> Iterator[str]:
    """A failure's exceptions, outermost first. Dagster keeps their texts, not their types."""
    error = getattr(event.event_specific_data, "error", None) if event is not None else None
    while error is not None:
        text = error.message.strip()
        yield text.split(":")[0].split(".")[-1] + text[text.find(":") :] if text.startswith(_OURS) else error.cls_name
        error = error.cause


def _tenant(event: Any) -> str | None:
    """The tenant that a Dagster event is about."""
    partition = getattr(event, "partition", None)
    if partition is None:
        evaluation = getattr(event, "event_specific_data", None)
        partition = getattr(evaluation, "partition", None)
    return partition if isinstance(partition, str) and "/" in partition else None


def _partner(key: str | None) -> str | None:
    """The partner in a partition key, which may be the partner's own or a tenant's."""
    return key.split("/")[0] if key else None
