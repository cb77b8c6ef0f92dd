"""`TraceStore`: every answer of every teacher, in one SQLite file, written as it arrives.

A row is there whole or not at all, whenever the process is stopped, and (question, teacher, sample)
is its key: nothing is asked twice, nothing is there twice. Beside the traces lie what is worth
keeping for a second run: lengths in tokens, verdicts of the verifier, and what was spent.
"""

import contextlib
import fcntl
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from s1jax.data.asked import is_role
from s1jax.types import Trace, UserError

VERSION = 1

_ADVICE = {  # by what SQLite calls the error
    sqlite3.SQLITE_FULL: "free some space and start again",
    sqlite3.SQLITE_IOERR: "see whether the disk is full or broken, and start again",
    sqlite3.SQLITE_READONLY: "it must be writable",
    sqlite3.SQLITE_CANTOPEN: "it must be readable and writable",
    sqlite3.SQLITE_BUSY: "another program has it open: close it and start again",
}

_COLUMNS = [f.name for f in fields(Trace)]
_values = attrgetter(*_COLUMNS)
_SCHEMA = f"""
CREATE TABLE traces ({", ".join(_COLUMNS)}, PRIMARY KEY (question_id, teacher, sample))
    WITHOUT ROWID;
CREATE TABLE questions (id TEXT PRIMARY KEY, question TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE lengths (question_id TEXT, teacher TEXT, sample INTEGER, tokenizer TEXT,
    tokens INTEGER, PRIMARY KEY (question_id, teacher, sample, tokenizer)) WITHOUT ROWID;
CREATE TABLE verdicts (key TEXT PRIMARY KEY, correct INTEGER, reason TEXT) WITHOUT ROWID;
CREATE TABLE requests (id INTEGER PRIMARY KEY, teacher TEXT, reserved REAL NOT NULL, cost REAL);
PRAGMA user_version = {VERSION};
"""


class TraceStore:
    """The store of a workdir. As a context it is open for this process alone.

    Raises UserError if the file is no store or damaged, or another process has it open.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock: IO[bytes] | None = None
        self._db: Any = None
        self._mine = threading.RLock()  # a transaction is the connection's, not the thread's

    def __enter__(self) -> "TraceStore":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_name(self.path.name + ".lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(
                f"{self.path} is being written by another process: wait for it, or name another"
                " workdir"
            ) from error
        try:
            with self._explained():
                self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
                self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        # FULL: a committed row survives a loss of power; many rows share a commit.
        self._db.execute("PRAGMA journal_mode = WAL")
        # SQLite's own functions end a text at its first NUL.
        self._db.create_function("beginning", 1, _beginning, deterministic=True)
        self._db.execute("PRAGMA synchronous = FULL")
        version, tables = self._what()
        if version == 0 and tables == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != VERSION:
            raise UserError(
                f"{self.path}: is no store of traces of version {VERSION}: name another workdir"
            )

    def _what(self) -> tuple[int, int]:
        """The version of the file and how many tables it has."""
        [(version,)] = self._db.execute("PRAGMA user_version")
        [(tables,)] = self._db.execute("SELECT count(*) FROM sqlite_master")
        return version, tables

    def is_store(self) -> bool:
        """Whether the open file is a store of this version."""
        try:
            return self._what()[0] == VERSION
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                return False
            raise

    def __exit__(self, *_: object) -> None:
        if self._db is not None:
            self._db.close()
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with self._mine:
                yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            advice = _ADVICE.get(code, "move it away to start anew")
            raise UserError(f"{self.path}: {error}; {advice}") from error

    def _write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(statement, rows)
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._db.execute(query, values).fetchall()

    # --- Traces ---

    def add(self, traces: Sequence[Trace]) -> None:
        """Writes these rows; they are on the disk when this returns."""
        marks = ", ".join("?" * len(_COLUMNS))
        self._write(f"INSERT INTO traces VALUES ({marks})", map(_values, traces))

    def done(self, teacher: str) -> set[tuple[str, int]]:
        """The (question, sample) pairs of a teacher that have a row."""
        query = "SELECT question_id, sample FROM traces WHERE teacher = ?"
        return set(self._read(query, (teacher,)))

    def forget(self, teacher: str, finishes: Sequence[str]) -> int:
        """Drops the rows of a teacher that ended so, and their lengths; returns how many."""
        marks = ", ".join("?" * len(finishes))
        rows = self._read(
            f"SELECT question_id, teacher, sample FROM traces WHERE teacher = ?"
            f" AND finish IN ({marks})",
            (teacher, *finishes),
        )
        this = "question_id = ? AND teacher = ? AND sample = ?"
        # Of a length without a row nobody knows; the other way round it would be another's.
        for table in ("lengths", "traces"):
            self._write(f"DELETE FROM {table} WHERE {this}", rows)
        return len(rows)

    def settings(self, teacher: str) -> list[str]:
        """The settings that a teacher's rows were made with; one, if all is well."""
        query = "SELECT DISTINCT settings FROM traces WHERE teacher = ? ORDER BY settings"
        return [text for (text,) in self._read(query, (teacher,))]

    def check_settings(self, teacher: str, settings: str) -> None:
        """Raises UserError if the rows of this teacher were all made otherwise.

        Where some were made like this the others were meant to stay: `ask_again` leaves both.
        """
        there = self.settings(teacher)
        if not there or settings in there:
            return
        was, is_ = json.loads(there[0]), json.loads(settings)
        changed = [key for key in sorted(was | is_) if was.get(key) != is_.get(key)]
        raise UserError(
            f"{self.path} has answers of {teacher} with other settings ("
            + ", ".join(f"{key} was {was.get(key)}, is {is_.get(key)}" for key in changed)
            + "): set them back, or name another workdir"
        )

    def traces(self, teacher: str, *, whole: bool = True) -> dict[tuple[str, int], Trace]:
        """All rows of a teacher by question and sample, in the order of that key.

        Not `whole`, a row has the first characters of its thinking: all of them together may be
        larger than the memory, and mostly it is only asked whether there is any.
        """
        names = ", ".join(_COLUMNS)
        if not whole:
            names = names.replace("thinking", "beginning(thinking)", 1)
        query = f"SELECT {names} FROM traces WHERE teacher = ? ORDER BY question_id, sample"
        return {(row[0], row[2]): _trace(row) for row in self._read(query, (teacher,))}

    def trace(self, question_id: str, teacher: str, sample: int) -> Trace:
        """One row, whole. KeyError if there is none."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM traces"
        key = (question_id, teacher, sample)
        rows = self._read(f"{query} WHERE question_id = ? AND teacher = ? AND sample = ?", key)
        if not rows:
            raise KeyError(key)
        return _trace(rows[0])

    def teachers(self) -> list[str]:
        """Who has rows here."""
        return [name for (name,) in self._read("SELECT DISTINCT teacher FROM traces ORDER BY 1")]

    def name_questions(self, questions: Mapping[str, str]) -> None:
        """Keeps the texts of questions by id, so that the file can be read by itself."""
        self._write("INSERT OR IGNORE INTO questions VALUES (?, ?)", questions.items())

    def questions(self) -> dict[str, str]:
        """The texts by id."""
        return dict(self._read("SELECT id, question FROM questions ORDER BY id"))

    # --- What a second run need not do again ---

    def lengths(self, teacher: str, tokenizer: str) -> dict[tuple[str, int], int]:
        """Tokens of thinking by question and sample, as this tokenizer counts them."""
        query = "SELECT question_id, sample, tokens FROM lengths WHERE teacher=? AND tokenizer=?"
        return {
            (q, sample): tokens for q, sample, tokens in self._read(query, (teacher, tokenizer))
        }

    def add_lengths(
        self, teacher: str, tokenizer: str, lengths: Mapping[tuple[str, int], int]
    ) -> None:
        """Keeps them."""
        rows = ((q, teacher, s, tokenizer, tokens) for (q, s), tokens in lengths.items())
        self._write("INSERT OR REPLACE INTO lengths VALUES (?, ?, ?, ?, ?)", rows)

    def verdicts(self) -> dict[str, tuple[bool | None, str]]:
        """What a verifier said, by the digest of what it was asked."""
        rows = self._read("SELECT key, correct, reason FROM verdicts")
        return {key: (None if c is None else bool(c), reason) for key, c, reason in rows}

    def add_verdicts(self, verdicts: Mapping[str, tuple[bool | None, str]]) -> None:
        """Keeps them."""
        rows = ((key, correct, reason) for key, (correct, reason) in verdicts.items())
        self._write("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", rows)

    # --- Money ---

    def spent(self, teacher: str) -> float:
        """Dollars, with the highest price of each request whose own is not known."""
        query = "SELECT total(coalesce(cost, reserved)) FROM requests WHERE teacher = ?"
        return self._read(query, (teacher,))[0][0]

    def reserve(self, teacher: str, price: float) -> int:
        """Notes, before a request is sent, what it may cost at most; returns the note's number.

        It is on the disk when this returns: a run that is killed has spent it.
        """
        with self._explained():
            row = self._db.execute(
                "INSERT INTO requests (teacher, reserved) VALUES (?, ?)", (teacher, price)
            )
            return row.lastrowid

    def settle(self, number: int, cost: float) -> None:
        """Notes what a request did cost."""
        self._write("UPDATE requests SET cost = ? WHERE id = ?", [(cost, number)])


def _trace(row: tuple[Any, ...]) -> Trace:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Trace(**(values | {"is_summary": bool(values["is_summary"])}))


def _beginning(text: str) -> str:
    return text.lstrip()[:40]


def read_store(path: Path, teacher: str = "") -> Iterator[Trace]:
    """The good traces of one teacher, one after the other; the store stays as it is.

    Without a name there must be one teacher alone, those whom curation asks (`asked.ROLES`) apart.
    Raises UserError if there is no such teacher, or the file cannot be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    store = TraceStore(path)
    with (
        contextlib.closing(
            sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)
        ) as store._db,
        store._explained(),
    ):
        if not store.is_store():
            raise UserError(f"{path}: is no store of traces, as s1jax.distill leaves one")
        name = _one_of(path, store.teachers(), teacher)
        query = f"SELECT {', '.join(_COLUMNS)} FROM traces WHERE teacher = ? AND error IS NULL"
        yield from map(_trace, store._db.execute(f"{query} ORDER BY question_id, sample", (name,)))


def _one_of(path: Path, names: Sequence[str], wanted: str) -> str:
    """The wanted teacher, or the only one."""
    teachers = [name for name in names if not is_role(name)]
    if not wanted and len(teachers) == 1:
        return teachers[0]
    if wanted in names:
        return wanted
    there = ", ".join(names if wanted else teachers) or "nobody"
    if wanted:
        raise UserError(f'{path} has no traces of "{wanted}", but of {there}')
    if not teachers:
        raise UserError(f"{path} has traces of no teacher")
    raise UserError(
        f"{path} has traces of {there}: choose with a name after the file's, as in"
        f' distill.model="{path}#{teachers[0]}"'
    )
