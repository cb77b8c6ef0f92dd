"""The processes of one job: how they find each other, and how all of them end when one does.

JAX joins them, and its collectives between CPUs are gloo's (`jax_cpu_collectives_implementation`,
gloo by default). It ends a job too, but late: after a heartbeat of minutes, with a stack trace.
Here every process writes a beat into the job's table (the key-value store of JAX's coordinator),
and a note when it leaves early. Who reads a note leaves with the same code and the same sentence;
so does who misses another's beat.
"""

import ctypes
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from s1jax import cli
from s1jax.types import UserError

FAULT = 1  # the exit code
GONE_S = 30.0  # without a beat a process is taken for dead
_BEAT_S = 1.0
_FAREWELL_S = 10.0  # that process 0, which keeps the table, waits for others to read its note
_APPEARS_S = 5.0  # that a network file system may take to show a file on another host
_START_S = 300  # within which all processes must have started
_JAX_HEARTBEAT_S = 100  # JAX's own net, for what escapes ours
_TABLE = "s1jax/job"


def says_several() -> str | None:
    """The environment's variable that says that this is one process of several, if any does."""
    said = {
        "COORDINATOR_ADDRESS": bool(os.environ.get("COORDINATOR_ADDRESS")),
        "SLURM_NTASKS": int(os.environ.get("SLURM_NTASKS") or "1") > 1,
        "TPU_WORKER_HOSTNAMES": "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""),
        "JOIN_HOSTS": os.environ.get("JOIN_HOSTS") == "1",
    }
    return next((name for name, several in said.items() if several), None)


def refuse_several(verb: str) -> None:
    """Raises UserError if this is one process of several: the verb knows only its own devices."""
    if variable := says_several():
        raise UserError(
            f"{verb} runs in one process on one host's devices, and {variable} says that this is"
            " one of several: start it once, with that variable unset"
        )


def start_distributed() -> bool:
    """Joins this process to the others of the job; whether the environment names any.

    An explicit address wins (COORDINATOR_ADDRESS=host:port, NUM_PROCESSES, PROCESS_ID); else a
    SLURM job of several tasks or a TPU slice on GKE is found by JAX itself, and with JOIN_HOSTS=1
    whatever JAX can find: TPU VMs tell their hosts apart only when asked.
    Raises UserError if the explicit address is incomplete.
    """
    timeouts: dict[str, Any] = {
        "initialization_timeout": _START_S,
        "heartbeat_timeout_seconds": _JAX_HEARTBEAT_S,
        "shutdown_timeout_seconds": _JAX_HEARTBEAT_S,
    }
    explicit = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
    given = [name for name in explicit if os.environ.get(name)]
    if given:
        address, count, index = _explicit(explicit, given)
        import jax

        _on_abort(lambda: _ALONE)
        # Not detected: a pod's GPUs are all its own, and JAX would look for a package of
        # Kubernetes'. JAX_LOCAL_DEVICE_IDS still divides a host's devices by hand.
        jax.distributed.initialize(
            address, count, index, cluster_detection_method="deactivate", **timeouts
        )
    elif says_several():
        import jax

        _on_abort(lambda: _ALONE)
        jax.distributed.initialize(**timeouts)
    else:
        return False
    return True


def _explicit(names: tuple[str, ...], given: list[str]) -> tuple[str, int, int]:
    missing = [name for name in names if name not in given]
    if missing:
        raise UserError(f"{', '.join(given)} is set in the environment but {missing[0]} is not")
    address = os.environ["COORDINATOR_ADDRESS"]
    try:
        count, index = int(os.environ["NUM_PROCESSES"]), int(os.environ["PROCESS_ID"])
    except ValueError as error:
        raise UserError("NUM_PROCESSES and PROCESS_ID must be whole numbers") from error
    if not 0 <= index < count:
        raise UserError(f"PROCESS_ID={index} must be from 0 to NUM_PROCESSES - 1 = {count - 1}")
    if not address.rpartition(":")[2].isdecimal():
        raise UserError(f"COORDINATOR_ADDRESS={address} has no port: write it as host:port")
    return address, count, index


def run_together(work: Callable[[], int]) -> int:
    """The exit code of `work`, done by this process together with the others of its job, if any.

    All of them end when one ends early, and with its code: a UserError (2) or a fault (1) in one
    ends the others with the same sentence, one that is killed ends them within a minute (1), and
    one that SIGTERM stopped (75) has the others stop by SIGTERM too.
    """
    if not start_distributed():
        return work()
    import jax

    job = _Job()
    try:
        code = work()
        job.end(code)
    except KeyboardInterrupt:
        job.leave(cli.INTERRUPTED, "interrupted")
    except Exception as error:
        if (said := cli.excuse(error)) is not None:
            job.leave(cli.USER_ERROR, said)
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(GONE_S + 5 * _BEAT_S)  # the watch ends us if this is but another's end
        first = (str(error).splitlines() or [""])[0]
        job.leave(FAULT, f"failed with {type(error).__name__}: {first}", fault=error)
    return code


def process_index() -> int:
    """Which process of its job this is; 0 if it is the only one."""
    jax = _joined()
    return 0 if jax is None else jax.process_index()


def meet(name: str) -> None:
    """Returns when all processes of the job are here, however long one of them works before.

    `name` is used once. A collective would give up after minutes, and a barrier of JAX's would
    hear no signal meanwhile.
    """
    if (jax := _joined()) is None:
        return
    place = f"{_TABLE}-meets/{name}"
    _client().key_value_set(f"{place}/{jax.process_index()}", "here")
    while len(_client().key_value_dir_get(place)) < jax.process_count():
        time.sleep(_BEAT_S / 5)


def check_shared(directory: Path) -> None:
    """Makes the directory, and sees that all processes of the job mean the same one by its name.

    Where hosts have one each, the first save would wait forever for what others never see. Called
    once, by all, before anything is written. Raises UserError, in all processes, if one does not
    find there what process 0 has written.
    """
    if (jax := _joined()) is None:
        return
    index, place, sign = jax.process_index(), f"{_TABLE}-shared", None
    try:
        if index == 0:
            sign = directory / f".shared-{secrets.token_hex(8)}"
            directory.mkdir(parents=True, exist_ok=True)
            sign.touch()
            _client().key_value_set(f"{place}/sign", sign.name)
        meet("directory written")
        [(_, name)] = _client().key_value_dir_get(place)
        if not _appears(directory / name):
            _client().key_value_set(f"{place}-not/{index}", str(index))
        meet("directory seen")
    finally:
        if sign is not None:
            sign.unlink(missing_ok=True)
    meet("directory tidied")  # whoever leaves ends process 0 too
    if without := sorted(int(value) for _, value in _client().key_value_dir_get(f"{place}-not")):
        who = ", ".join(map(str, without[:8])) + (" and others" if len(without) > 8 else "")
        raise UserError(
            f"{directory} is not the same directory on all hosts: what process 0 writes there,"
            f" process {who} cannot see; name one of a file system that every host has mounted"
        )


def _appears(path: Path) -> bool:
    until = time.monotonic() + _APPEARS_S
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(_BEAT_S / 5)
    return True


def _joined() -> Any:
    """The module jax if this process has joined others; a laptop that grades does not load it."""
    jax = sys.modules.get("jax")
    return jax if jax is not None and jax.distributed.is_initialized() else None


def _client() -> Any:
    # Orbax reaches for it in the same way: JAX has no public name for its coordinator's client.
    from jax._src.distributed import global_state

    return global_state.client


class _Job:
    """This process's place in the job, and the watch over the others."""

    def __init__(self) -> None:
        import jax
        from jax._src.distributed import global_state

        self.index, self.count = jax.process_index(), jax.process_count()
        self._client = _client()
        self._coordinator = str(global_state.coordinator_address)
        self._leaving, self._ended = threading.Lock(), threading.Event()
        self._stopping = False  # by SIGTERM, this process's own or passed on
        _on_abort(self._coordinator_gone)
        self._watch = threading.Thread(target=self._watch_others, daemon=True)
        self._watch.start()

    def end(self, code: int) -> None:
        """Waits for the others, who end with this code too, and parts from them."""
        if code == cli.PREEMPTED:
            self._stopping = True
            self._note(code, "was stopped by SIGTERM")
        meet("end")
        self._ended.set()
        self._watch.join()
        import jax

        jax.distributed.shutdown()

    def leave(
        self, code: int, said: str, who: int | None = None, *, fault: Exception | None = None
    ) -> NoReturn:
        """Ends this process now, with what process `who` (this one, if None) said at its end."""
        self._leaving.acquire()  # for good: a second thread that leaves stays here
        if fault is not None:
            traceback.print_exception(fault)
        print(f"error: {'' if who is None else f'process {who}: '}{said}", file=sys.stderr)
        present = self.count - (said == _GONE)
        try:
            self._note(code, said, who)
            # The table ends with process 0: who had not read it would be aborted by JAX.
            until = time.monotonic() + _FAREWELL_S
            while self.index == 0 and time.monotonic() < until:
                if len([1 for name in self._table() if name.startswith("end/")]) == present:
                    break
                time.sleep(_BEAT_S / 5)
        except Exception:  # the table is gone, and whoever kept it
            pass
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # JAX's own end would wait for the others

    def _note(self, code: int, said: str, who: int | None = None) -> None:
        note = json.dumps([code, said, self.index if who is None else who])
        self._client.key_value_set(f"{_TABLE}/end/{self.index}", note, allow_overwrite=True)

    def _table(self) -> dict[str, str]:
        rows = self._client.key_value_dir_get(_TABLE)
        return {key.rpartition(f"{_TABLE}/")[2]: value for key, value in rows}

    def _watch_others(self) -> None:
        heard = {index: ("", time.monotonic()) for index in range(self.count)}
        beat = 0
        while not self._ended.wait(_BEAT_S):
            beat += 1
            try:
                name = f"{_TABLE}/beat/{self.index}"
                self._client.key_value_set(name, str(beat), allow_overwrite=True)
                table = self._table()
            except Exception:
                self.leave(FAULT, _GONE, 0)
            now = time.monotonic()
            for index in set(range(self.count)) - {self.index}:
                if (note := table.get(f"end/{index}")) is not None:
                    code, said, who = json.loads(note)
                    if code != cli.PREEMPTED:
                        self.leave(code, said, who)
                    if not self._stopping:
                        self._stopping = True
                        os.kill(os.getpid(), signal.SIGTERM)
                told, when = table.get(f"beat/{index}", ""), heard[index][1]
                if told != heard[index][0]:
                    heard[index] = told, now
                elif now - when > GONE_S and note is None:
                    self.leave(FAULT, _GONE, index)

    def _coordinator_gone(self) -> str | None:
        host, _, port = self._coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError:
            return f"process 0: {_GONE}"
        return None


def _on_abort(reason: Callable[[], str | None]) -> None:
    """Has an abort end this process with a sentence, if there is a reason known for it.

    JAX aborts when process 0 is gone, or was never found, whoever watches. The handler is C's:
    Python runs its own only after an abort has ended the process.
    """
    global _handler

    def aborted(_: int) -> None:
        if (said := reason()) is not None:
            print(f"error: {said}", file=sys.stderr, flush=True)
            os._exit(FAULT)

    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    ctypes.CDLL(None).signal(signal.SIGABRT, _handler)


_handler: Any = None  # C does not keep it alive

_GONE = "gone without a word; what was saved is safe: start all processes again to go on"
_ALONE = (
    f"the other processes of the job were not there within {_START_S} s: did all of them start?"
)
