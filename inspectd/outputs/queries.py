"""The output that answers: missed results from the records, status, anomaly maps of recent parts; one ROUTER socket."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Event, Lock

import numpy as np
import structlog
import zmq
from numpy.typing import NDArray

from inspectd.errors import InspectdError
from inspectd.health.meters import Count, Meters, Stage
from inspectd.messages import Verdict
from inspectd.wire.errors import WireError
from inspectd.wire.public import Json, result, to_bytes
from inspectd.wire.questions import (
    AskChallenge,
    AskMap,
    AskResults,
    AskStatus,
    Question,
    answer_challenge,
    answer_error,
    answer_map,
    answer_results,
    answer_status,
    parse_question,
)
from inspectd.wire.sockets import Socket, receive_foreign

RESULTS_PER_ANSWER = 500
REMEMBERED_MAPS = 64
IDLE_MS = 100
MAX_ENVELOPE = 4
log = structlog.get_logger(__name__)


class RecentMaps:
    """The anomaly maps of the newest parts; safe across threads."""

    def __init__(self, count: int = REMEMBERED_MAPS) -> None:
        self._count = count
        self._maps: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()

    def keep(self, seq: int, anomaly_map: NDArray[np.float32]) -> None:
        """Remember one map, and forget the oldest where there are too many."""
        with self._lock:
            self._maps[seq] = anomaly_map
            if len(self._maps) > self._count:
                self._maps.popitem(last=False)

    def get(self, seq: int) -> NDArray[np.float32] | None:
        """The map of part `seq`, None where it is not among the newest."""
        with self._lock:
            return self._maps.get(seq)


class Queries:
    """Answers questions; a malformed one gets a clear answer too. One thread.

    results(first, last, limit): recorded verdicts by rising seq, and the newest recorded seq; raises StorageError.
    status: the heartbeat's message. challenge(names, by, patience_s): begins one, returns its first and last number;
    raises InspectdError. run: the run that all numbers belong to.
    """

    def __init__(
        self,
        socket: Socket,
        *,
        results: Callable[[int, int, int], tuple[list[Verdict], int]],
        status: Callable[[], Json],
        challenge: Callable[[Sequence[str], str, float], tuple[int, int]],
        maps: RecentMaps,
        meters: Meters,
        run: str,
    ) -> None:
        self._socket, self._run = socket, run
        self._results, self._status, self._challenge, self._maps = results, status, challenge, maps
        self._meters = meters

    def run(self, stop: Event) -> None:
        """Answer until `stop` is set."""
        while not stop.is_set():
            self._meters.beat(Stage.QUERY)
            if self._socket.poll(IDLE_MS):
                self.step()

    def step(self) -> None:
        """Answer one question; the envelope (REQ's empty frame, or DEALER's none) goes back as it came."""
        try:
            *envelope, body = receive_foreign(self._socket, MAX_ENVELOPE + 1)
        except WireError:
            self._meters.count(Count.QUERIES_REFUSED)
            return
        try:
            answer = self._answer(parse_question(body))
        except (WireError, InspectdError) as error:
            self._meters.count(Count.QUERIES_REFUSED)
            answer = [to_bytes(answer_error(str(error), self._run))]
        except Exception as error:  # the stage loop: no question may take the stage down
            self._meters.count(Count.STAGE_ERRORS)
            log.exception("a question could not be answered")
            answer = [to_bytes(answer_error(f"internal error: {type(error).__name__}", self._run))]
        try:
            self._socket.send_multipart([*envelope, *answer], flags=zmq.DONTWAIT)
        except zmq.ZMQError:
            self._meters.count(Count.QUERIES_REFUSED)  # the asker went away, or does not read its answers

    def _answer(self, question: Question) -> list[bytes]:
        if isinstance(question, AskStatus):
            return [to_bytes(answer_status(self._status()))]
        if isinstance(question, AskChallenge):
            first_seq, last_seq = self._challenge(question.names, question.by, question.patience_s)
            log.warning("a challenge begins", by=question.by, first_seq=first_seq, last_seq=last_seq)
            return [to_bytes(answer_challenge(first_seq, last_seq, self._run))]
        if isinstance(question, AskMap):
            anomaly_map = self._maps.get(question.seq)
            if anomaly_map is None:
                raise WireError(f"no anomaly map of part {question.seq}: only the newest {REMEMBERED_MAPS} are kept")
            return [to_bytes(answer_map(question.seq, anomaly_map, self._run)), anomaly_map.astype("<f4").tobytes()]
        return [to_bytes(self._recorded(question))]

    def _recorded(self, question: AskResults) -> Json:
        verdicts, newest = self._results(question.from_seq, question.to_seq, RESULTS_PER_ANSWER)
        full = len(verdicts) == RESULTS_PER_ANSWER
        complete_to = verdicts[-1].seq if full else max(question.from_seq - 1, min(question.to_seq, newest))
        results = [result(verdict, self._run) for verdict in verdicts]
        return answer_results(results, question, self._run, complete_to=complete_to)
