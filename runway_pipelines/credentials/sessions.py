"""A partner's sessions: opened in parallel, pooled, at most a few (rosters contract, section 6).

A run closes its pool when it ends. The roster stream keeps pools for days (`stream.pools`): it evicts idle sessions and
retires a pool whose secret was rotated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock
from typing import TYPE_CHECKING

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.errors import (
    AuthenticationRefused,
    Held,
    Permanent,
    QueryFailed,
    RowsUnreadable,
    RunwayError,
    SessionEnded,
    Transient,
    Unavailable,
)
from runway_pipelines.systems.snowflake.client import EduSession, EduSnowflake
from runway_pipelines.systems.snowflake.session_queue import SessionQueue

if TYPE_CHECKING:
    from runway_pipelines.credentials.partner_secrets import PartnerSecrets
    from runway_pipelines.systems.aws.secret_versions import SecretVersion

ACQUIRE_TIMEOUT_SECONDS = 60
PROOF_ATTEMPTS = 3
# No warehouse, no current database, an object missing or not granted, a column missing: the same for every tenant.
PARTNER_WIDE_QUERY_ERRORS = frozenset({"606", "666", "904", "2003", "2043", "3001", "90073", "90105", "90106"})


class AllSessionsInUse(Unavailable):
    """No session came free while we waited; waiting once more would only double the wait."""


class PartnerSessions:
    """One partner's sessions for up to ``size`` threads, each session used by one thread at a time.

    A session that saw an error is closed and never handed out again. ``secret`` is what sessions are opened with (None:
    not read yet). Once the partner as a whole is refused (no secret, a bad one, a refused login, missing tables), every
    further caller gets the same error at once: 40 tenants do not open 40 sessions to learn the same.
    """

    def __init__(
        self,
        partner_id: str,
        secrets: PartnerSecrets,
        snowflake: EduSnowflake,
        *,
        size: int,
        query_tag: str,
        acquire_timeout: float = ACQUIRE_TIMEOUT_SECONDS,
        size_variable: str = "RUNWAY_SESSIONS_PER_PARTNER",
    ) -> None:
        self._partner_id = partner_id
        self._secrets = secrets
        self._snowflake = snowflake
        self._query_tag = query_tag
        self.secret: SecretVersion | None = None
        self._refusal: RunwayError | None = None
        self._size = size
        self._failed_opens = 0
        self._reading = Lock()
        self._retrying = Lock()
        self.connects = 0
        self._acquire_timeout = acquire_timeout
        self._size_variable = size_variable
        self._in_use: set[EduSession] = set()
        self._returned = Condition()
        self._retired = False
        # reset_on_return: a session only reads, and Snowflake's ROLLBACK would be a round trip for each tenant.
        self._pool = SessionQueue(
            self._connect,  # type: ignore[arg-type]
            pool_size=size,
            max_overflow=0,
            timeout=acquire_timeout,
            reset_on_return=None,
            use_lifo=True,  # so that sessions that are not needed become idle
        )

    @contextmanager
    def session(self) -> Iterator[EduSession]:
        """Borrow a session. Raises `SecretMissing`, `SecretMalformed`, `AuthenticationRefused` or `Unavailable`."""
        if self._refusal is not None:
            raise self._refusal
        try:
            borrowed = self._pool.connect()
        except PoolTimeoutError:
            raise AllSessionsInUse(
                expected=f"a session of partner {self._partner_id} within {self._acquire_timeout:g} s",
                came="all of them in use",
                remedy=f"raise {self._size_variable}, or find out why its statements take so long",
            ) from None
        session: EduSession = borrowed.dbapi_connection  # type: ignore[assignment]
        with self._returned:
            self._in_use.add(session)
        try:
            yield session
        except (Held, RowsUnreadable):
            raise  # the data was refused, not the session, which serves the next tenant just as well
        except BaseException as error:
            borrowed.invalidate()
            if isinstance(error, SessionEnded):
                # The others idled just as long. Without this, whoever tries again would borrow the next ended one.
                self._pool.evict_idle(0)
            if isinstance(error, QueryFailed) and error.code in PARTNER_WIDE_QUERY_ERRORS:
                self._refusal = error
            raise
        finally:
            borrowed.close()
            if self._retired:  # checked after the return, because `retire` may have run just before
                self._pool.evict_idle(0)
            with self._returned:
                self._in_use.discard(session)
                self._returned.notify_all()

    @property
    def is_live(self) -> bool:
        """Whether there is an open session and nothing was refused."""
        return self._refusal is None and not self._retired and (bool(self._in_use) or self._pool.idle_sessions > 0)

    @property
    def sessions_in_use(self) -> int:
        """How many sessions are borrowed now."""
        return len(self._in_use)

    @property
    def sessions_idle(self) -> int:
        """How many sessions are open and unused."""
        return self._pool.idle_sessions

    @property
    def refusal(self) -> RunwayError | None:
        """Why the partner as a whole is refused, if it is; trying again in this run gives the same."""
        return self._refusal

    def prove(self, statement: str) -> None:
        """Open the first session and run a statement on it. The session stays open for the first tenant.

        A failure refuses the partner as a whole: no tenant is tried with credentials that do not work. A transient one
        is tried three times. Raises what `session` and `EduSession.select` raise.
        """
        try:
            retry(
                retry=retry_if_exception_type(Transient),
                stop=stop_after_attempt(PROOF_ATTEMPTS),
                wait=wait_random_exponential(multiplier=0.5, max=10),
                reraise=True,
            )(self._run)(statement)
        except RunwayError as refusal:
            self._refusal = refusal
            raise
        except Exception as error:  # noqa: BLE001
            # A library's error that we do not map; its text may quote the secret.
            self._refusal = Permanent(
                expected=f"a session of partner {self._partner_id}",
                came=f"an unexpected {type(error).__name__}",
                remedy="report it, with the run's log",
            )
            raise self._refusal from None

    def _run(self, statement: str) -> None:
        with self.session() as session:
            for _ in session.select(statement, {}, query_tag=self._query_tag).batches:
                pass

    def evict_idle(self, seconds: float) -> int:
        """End the sessions that were unused for that long; returns how many."""
        return self._pool.evict_idle(seconds)

    def retire(self) -> None:
        """End the idle sessions now and the others when they are returned; nobody may borrow here any more."""
        self._retired = True
        self._pool.dispose()

    def drain(self, seconds: float) -> int:
        """`retire`, wait that long for borrowed sessions, then end those still out; returns how many."""
        self.retire()
        deadline = time.monotonic() + seconds
        with self._returned:
            while self._in_use and (left := deadline - time.monotonic()) > 0:
                self._returned.wait(left)
            stuck = list(self._in_use)
        for session in stuck:
            session.close()
        return len(stuck)

    def close(self) -> None:
        """End every session."""
        self._pool.dispose()

    def _connect(self) -> EduSession:
        try:
            secret = self._current_secret()
            try:
                session = self._open(secret)
            except AuthenticationRefused as error:
                session = self._open_with_fresh_secret(secret, error)
            with self._reading:
                self._failed_opens = 0  # in a server that runs for days, only failures in a row mean something
            return session
        except Permanent as refusal:
            self._refusal = refusal
            raise
        except Unavailable as unavailable:
            # Each session in flight may find this out once; the other tenants need not wait for it again.
            with self._reading:
                self._failed_opens += 1
                if self._failed_opens > self._size:
                    self._refusal = unavailable
            raise

    def _open_with_fresh_secret(self, refused: SecretVersion, error: AuthenticationRefused) -> EduSession:
        """Read the secret again and, if its version changed, try once more: we may have started with the old key.

        One thread tries and the others use its answer, so that a bad key costs one more login instead of one for each
        thread. Snowflake locks a user out after a few.
        """
        with self._retrying:
            if self._refusal is not None:
                raise self._refusal
            if self.secret is refused:
                try:
                    fresh = self._secrets.require(self._partner_id)
                    if fresh.secret_version == refused.secret_version:
                        raise error
                    self.secret = fresh
                    return self._open(fresh)
                except Permanent as refusal:
                    self._refusal = refusal
                    raise
        return self._open(self._current_secret())

    def _open(self, secret: SecretVersion) -> EduSession:
        with self._reading:
            self.connects += 1
        return self._snowflake.open_session(
            parse_connection(secret.name, secret.text),
            secret_version=secret.secret_version,
            query_tag=self._query_tag,
        )

    def _current_secret(self) -> SecretVersion:
        """The secret, read once for all parallel connects; raises the refusal if the partner was refused before."""
        with self._reading:
            if self._refusal is not None:
                raise self._refusal
            if self.secret is None:
                self.secret = self._secrets.require(self._partner_id)
            return self.secret
