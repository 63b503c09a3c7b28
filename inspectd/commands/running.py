"""Whether a station's daemon runs, for commands that would make its verdicts late."""

from __future__ import annotations

import zmq

from inspectd.config import Station
from inspectd.errors import EndpointTaken, StationBusy
from inspectd.wire.sockets import Context, bind


def refuse_while_running(station: Station, otherwise: str) -> None:
    """Raise StationBusy where the station's daemon runs: what is to follow takes the GPU from it for minutes.

    otherwise: what else the user can do. Raises EndpointError where that cannot be told: the endpoint cannot be bound.
    """
    endpoint = station.outputs.queries
    context: Context = zmq.Context()
    try:
        bind(context, zmq.ROUTER, endpoint, 1).close(linger=0)
    except EndpointTaken as error:
        raise StationBusy(
            f"station {station.station} seems to be inspecting ({endpoint} is taken): stop it while the line stands "
            f"(systemctl stop inspectd@{station.station}), or {otherwise}"
        ) from error
    finally:
        context.term()
