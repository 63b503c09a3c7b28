"""`inspectd keys`: the keys of the daemon and of those who may talk to it over TCP."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from inspectd.config import Station, load_station
from inspectd.terminal import table_console
from inspectd.wire.key_files import KeyFolder
from inspectd.wire.keys import LOCAL_CLIENT, PUBLIC_SUFFIX, SECRET_SUFFIX, SERVER_NAME, allowed_clients, read_public_key

EPILOG = """\
examples:
  inspectd keys new --station smdc           once: the daemon's key, and one for the commands on this machine
  inspectd keys client plc1 --station smdc   a key for the PLC's computer: copy the file that it names there
  inspectd keys list --station smdc
  inspectd keys revoke plc1 --station smdc

Then set `security: {curve: required}` for the station, and restart its daemon. docs/security.md says more.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the sub-command."""
    parser = subparsers.add_parser(
        "keys",
        help="keys of the daemon and of its clients",
        description="Make, list and take away the keys with which clients come in over TCP (CURVE). "
        "Nothing is overwritten without --force. Ends with 0, or with 3 where a key is missing, unsafe or in the way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = _action(actions, "new", "make the daemon's key")
    client = _action(actions, "client", "make a client's key and let it in")
    _action(actions, "list", "who may come in").add_argument("--json", action="store_true", help="one JSON document")
    revoke = _action(actions, "revoke", "let a client in no more")
    for action in (client, revoke):
        action.add_argument("name", metavar="NAME", help="the client's name: a-z, 0-9, - and _")
    client.add_argument(
        "--out", type=Path, metavar="FILE", help="its secret file (default: <station>-NAME.key_secret, in this folder)"
    )
    for action in (new, client):
        action.add_argument("--force", action="store_true", help="replace a key that is there")


def run(args: argparse.Namespace) -> int:
    """Do it; returns 0. Raises KeysError, SettingsError, StorageError."""
    station = load_station(args.station)
    folder = KeyFolder(station.security.keys / station.station, station.station)
    if args.action == "new":
        _new(station, folder, args.force)
    elif args.action == "client":
        _client(station, folder, args)
    elif args.action == "list":
        _list(folder, as_json=args.json)
    else:
        print(f"{folder.revoke(args.name)}: removed; {args.name} is let in no more")
        print(f"A connection that stands ends with the daemon: systemctl restart inspectd@{station.station}")
    return 0


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    action.add_argument("--station", required=True, help="station name, or path of its settings")
    return action


def _new(station: Station, folder: KeyFolder, force: bool) -> None:
    pair = folder.make_server(force=force)
    print(f"{folder.path}: the daemon's key is made; its public key is {pair.public.decode()}")
    if station.security.curve == "off":
        print(f"It is not used yet: set `security: {{curve: required}}` for station {station.station}")
    print(f"Next: inspectd keys client NAME --station {station.station}")


def _client(station: Station, folder: KeyFolder, args: argparse.Namespace) -> None:
    out: Path = args.out or Path(f"{station.station}-{args.name}{SECRET_SUFFIX}")
    if args.name == LOCAL_CLIENT and args.out is None:
        out = folder.path / (LOCAL_CLIENT + SECRET_SUFFIX)
    folder.make_client(args.name, out, force=args.force)
    print(f"{out}: the key of {args.name}, which is let in from now on")
    if args.name != LOCAL_CLIENT:
        print("Move it to the client, readable for its user alone, and delete it here; it also names the daemon's key:")
        print(f"  tools/plc_bridge.py --station {station.station} --key {out.name} --results ... --queries ...")


def _list(folder: KeyFolder, *, as_json: bool) -> None:
    server = read_public_key(folder.path / (SERVER_NAME + PUBLIC_SUFFIX)).decode()
    allowed, faults = allowed_clients(folder.path)
    if as_json:
        clients = [{"name": name, "public_key": key.decode()} for key, name in allowed.items()]
        print(json.dumps({"station": folder.station, "server": server, "clients": clients, "faults": faults}))
        return
    table = Table("who", "public key", box=None, pad_edge=False)
    table.add_row("the daemon", Text(server))  # Text: a key may hold what rich takes for markup
    for key, name in allowed.items():
        table.add_row(name, Text(key.decode()))
    for fault in faults:
        table.add_row("damaged", Text(fault), style="red")
    table_console().print(table)
