"""The workers as the supervisor has them: started, replaced when they die, spoken to and asked, ended together."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ccm.errors import ControlError, Refusal
from ccm.observe.log import Log
from ccm.process import scales
from ccm.process.line import Line, Message

BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SETTLED_S = 30.0  # whoever has lived for so long died of something new
KILL_S = 8.0  # after the drain time
# `-I`, then the module path as it is here: a worker runs what its supervisor runs
_PROGRAM = (
    "import sys; sys.path[:] = __import__('json').loads(sys.argv[1]); "
    "from ccm.process import light; light.prepare(); "
    "from ccm.process.worker import main; sys.exit(main(*map(int, sys.argv[2:])))"
)


class Member:
    """One worker. `seen` is what it last told of itself."""

    def __init__(
        self, crew: Crew, number: int, process: subprocess.Popen[bytes], sock: socket.socket
    ) -> None:
        self.number, self.process = number, process
        self.line = Line(
            sock,
            lambda messages: crew.hear(self, messages),
            lambda: crew.over(self),
            crew.fault,
            f"worker-{number}",
        )
        self.born = time.monotonic()
        self.ready = threading.Event()
        self.seen: dict[str, Any] = {}


class _Question:
    """Waits for the answers of all it was put to."""

    def __init__(self, asked: set[int]) -> None:
        self.open = asked
        self.answers: dict[int, Message] = {}
        self.done = threading.Event()


class Crew:
    """`greet(member)` gives a new worker its first messages, after which it gets all that is told to everybody;
    `take(member, messages)` gets what it says; `gone(member)` is told of each that has ended."""

    def __init__(
        self,
        size: int,
        door: socket.socket,
        env: Mapping[str, str],
        log: Log,
        greet: Callable[[Member], None],
        take: Callable[[Member, list[Message]], None],
        gone: Callable[[Member], None],
    ) -> None:
        self.size = size
        self.scales = scales.make(size)
        self._door, self._env, self._log = door, dict(env), log
        self._greet, self._take, self._gone = greet, take, gone
        self._lock = threading.Lock()
        self._members: dict[int, Member] = {}
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._ended: list[Member] = []
        self._news = threading.Event()  # somebody has ended, or we stop
        self._stopping = threading.Event()
        self._failures = dict.fromkeys(range(1, size + 1), 0)
        self._due: dict[int, float] = {}
        self._thread = threading.Thread(target=self._mind, name="ccm-crew", daemon=True)

    @property
    def members(self) -> list[Member]:
        """Those that live, by number."""
        with self._lock:
            return [self._members[number] for number in sorted(self._members)]

    # ---- life

    def start(self, timeout_s: float) -> bool:
        """Starts all; True when at least one serves within the time."""
        for number in range(1, self.size + 1):
            self._begin(number)
        self._thread.start()
        deadline = time.monotonic() + timeout_s
        for number in range(1, self.size + 1):
            with self._lock:
                member = self._members.get(number)
            if member is not None:
                member.ready.wait(max(0.0, deadline - time.monotonic()))
        return any(member.ready.is_set() for member in self.members)

    def _begin(self, number: int) -> None:
        mine, theirs = socket.socketpair()
        fds = (theirs.fileno(), self._door.fileno(), self.scales.fd)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path), *map(str, fds)],
                env=self._env,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            mine.close()
            self._log.error("a worker cannot be started", worker=number, problem=error.strerror or str(error))
            self._later(number)
            return
        finally:
            theirs.close()
        member = Member(self, number, process, mine)
        with self._lock:
            self._members[number] = (
                member  # from here on it gets what all get; its hello says what was before
            )
        try:
            self._greet(member)
        except BaseException:
            process.kill()  # it would wait for its hello; it is buried, and another one begun
            raise
        finally:
            member.line.start()

    def over(self, member: Member) -> None:
        """A worker's line has ended."""
        with self._lock:
            self._ended.append(member)
        self._news.set()

    def fault(self, fault: BaseException, where: str) -> None:
        """A bug of ours, on a line."""
        self._log.fault("internal error", fault, where=where)

    def _later(self, number: int) -> None:
        failures = self._failures[number]
        self._due[number] = time.monotonic() + BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
        self._failures[number] = failures + 1

    def _mind(self) -> None:
        while True:
            now = time.monotonic()
            self._news.wait(max(0.0, min(self._due.values()) - now) if self._due else None)
            self._news.clear()
            with self._lock:
                ended, self._ended = self._ended, []
            for member in ended:
                self._bury(member)
            if self._stopping.is_set():
                if not self.members:
                    return
                continue
            now = time.monotonic()
            for number in [number for number, at in self._due.items() if at <= now]:
                del self._due[number]
                try:
                    self._begin(number)
                except Exception as fault:  # whatever it was: this thread must go on
                    self.fault(fault, "crew")
                    self._later(number)

    def _bury(self, member: Member) -> None:
        """Its line has ended: whatever it still does, nobody would hear of it."""
        try:
            code: int | None = member.process.wait(KILL_S if self._stopping.is_set() else 0.5)
        except subprocess.TimeoutExpired:
            member.process.kill()
            code = member.process.wait()
        member.line.finish(1.0)
        self.scales.leave(member.number)
        with self._lock:
            if self._members.get(member.number) is member:
                del self._members[member.number]
            questions = list(self._questions.values())
            for question in questions:
                question.open.discard(member.number)
                if not question.open:
                    question.done.set()
        self._gone(member)
        if self._stopping.is_set():
            return
        self._log.error("a worker has ended", worker=member.number, pid=member.process.pid, status=code)
        if time.monotonic() - member.born > SETTLED_S:
            self._failures[member.number] = 0
        self._later(member.number)

    def stop(self, drain_s: float) -> None:
        """Ends all: they drain, so long at most, and are killed where they do not come to an end."""
        self._stopping.set()
        self._news.set()
        self.tell(("stop", drain_s))
        deadline = time.monotonic() + drain_s + KILL_S
        if self._thread.ident is None:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        for member in self.members:
            self._log.error("a worker did not end and is killed", worker=member.number)
            member.process.kill()
        self._thread.join(5.0)

    # ---- words

    def tell(self, message: Message, but: Member | None = None) -> None:
        """Says something to all (but one); never waits."""
        for member in self.members:
            if member is not but:
                member.line.put(message, urgent=True)

    def hear(self, member: Member, messages: list[Message]) -> None:
        """Takes in what a worker says, in order."""
        rest: list[Message] = []
        for message in messages:
            if message[0] == "reply":
                if rest:  # what was said before an answer is known when the answer is
                    self._take(member, rest)
                    rest = []
                self._answered(member, message[1], message[2])
            elif message[0] == "ready":
                member.ready.set()
            else:
                rest.append(message)
        if rest:
            self._take(member, rest)

    def _answered(self, member: Member, number: int, answer: Message) -> None:
        with self._lock:
            question = self._questions.get(number)
            if question is None:
                return
            question.answers[member.number] = answer
            question.open.discard(member.number)
            if not question.open:
                question.done.set()

    def ask(self, what: str, args: tuple[Any, ...] = (), timeout_s: float = 1.0) -> dict[int, Message]:
        """The answers of all that serve and answer in time: ("ok", value), ("error", text, status) or ("refused", ...).
        All that they have said before has been taken in by then. Not to be called by `take`."""
        members = [member for member in self.members if member.ready.is_set()]
        question = _Question({member.number for member in members})
        if not members:
            return {}
        with self._lock:
            self._asked += 1
            number = self._asked
            self._questions[number] = question
        for member in members:
            member.line.put(("ask", number, what, args), urgent=True)
        question.done.wait(timeout_s)
        with self._lock:
            del self._questions[number]
            return dict(question.answers)


def value_of(answer: Message) -> Any:
    """What an answer holds. Raises ControlError and Refusal as the worker did."""
    if answer[0] == "ok":
        return answer[1]
    if answer[0] == "refused":
        raise Refusal(*answer[1:4])
    raise ControlError(str(answer[1]), int(answer[2]))
