"""Provider keys in an encrypted vault: add, rotate without a failed request, revoke, list, audit, test, rewrap.

    understudy keys add openrouter --root file:/etc/understudy/root.key   # the first one makes the vault
    pass show openrouter | understudy keys add openrouter                 # a key from standard input
    understudy keys rotate openrouter      # try the new key, use it, forget the old one
    understudy keys list
    understudy keys audit                  # exit 1 names the entry that was changed, dropped or rewritten
    understudy keys COMMAND --help

In the topology `key: {vault: openrouter}` names a key. It is read from a prompt without echo or from standard input,
never from an argument. The root key of the vault is a passphrase (asked for on the terminal), a file of yours alone
(mode 0600), a systemd credential or the OS keyring; losing it loses the vault, so add the keys anew then.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from understudy.tools.common import DEFAULT_STATE, UNITS_S, complain, since_s

ABOUT = {
    "add": """Put a key into the vault; with --root, make the vault first.

    understudy keys add openrouter --root passphrase
    understudy keys add lab --rotate-after 90d < key.txt

Roots: passphrase (asked for at each `up`), file:PATH (made if absent, mode 0600), credential:NAME (systemd,
LoadCredential=), keyring (the operating system's; needs the extra `keyring`). A running `up` is told.""",
    "rotate": """Replace a key without a failed request.

    understudy keys rotate openrouter

The new key lies beside the old one; the process that will use it asks the provider whether it takes it; then new calls
go out with it, calls under way end with the old one, and the old one is gone from the vault. A provider that refuses
the new key changes nothing: exit 1 says why. Where nobody could tell, the new key waits for --resume. Some providers
answer any key where they are asked: then nothing tells a good key from a typing error, and --unchecked takes it all the
same. Afterwards revoke the old key at the provider.""",
    "revoke": """Forget a key at once: no call begins with it any longer, those under way end.

    understudy keys revoke openrouter
    understudy keys revoke k0123456789abcdef      # a key id of `keys list`

The vault keeps its id, not the key. Exit 1 if a process that runs did not follow; the same command again tells it
again. Revoke the key at the provider too.""",
    "list": """Ids, names, versions and ages. It never shows a key, nor a part of one, and needs no root key.

    understudy keys list --json""",
    "audit": """Check every entry of the audit against its hash, its seal, the vault, and the log of a running `up`.

    understudy keys audit --entries

Exit 1 names the entries that were changed, dropped, reordered or rewritten.""",
    "test": """Ask the provider whether it takes the key in use: by the process that uses it, where `up` runs.

    understudy keys test openrouter""",
    "rewrap": """A new key-encryption key: all keys are wrapped anew, the old one opens nothing any longer.

    understudy keys rewrap
    understudy keys rewrap --root passphrase      # and another root key; then restart `up`""",
}


def add(parser: argparse.ArgumentParser) -> None:
    """One subcommand each."""
    commands = parser.add_subparsers(dest="keys", required=True, metavar="COMMAND")
    for name, about in ABOUT.items():
        one = commands.add_parser(
            name,
            help=about.partition("\n")[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in ("add", "rotate", "test"):
            one.add_argument("name", metavar="NAME", help="the key's name, as `key: {vault: NAME}` has it")
        if name == "revoke":
            one.add_argument("name", metavar="NAME|KEY_ID", help="a name (its key in use), or a key's id")
        if name in ("add", "rewrap"):
            one.add_argument("--root", help="passphrase, file:PATH, credential:NAME or keyring")
        if name in ("add", "rotate"):
            one.add_argument("--rotate-after", metavar="90d", type=_later_s, help="`list` shows when this is over")
        if name == "rotate":
            one.add_argument("--resume", action="store_true", help="go on with a new key that was put in before")
            one.add_argument(
                "--unchecked", action="store_true", help="use it though nobody can tell whether it is good"
            )
            one.add_argument("--wait", metavar="10m", default="10m", type=_later_s,
                             help="so long calls on the old key are waited for (default: 10m)")  # fmt: skip
        if name == "audit":
            one.add_argument("--entries", action="store_true", help="print all entries too")
        _places(one)


def _places(one: argparse.ArgumentParser) -> None:
    one.add_argument("--state", type=Path, default=DEFAULT_STATE, help="state folder of `up` (default: ./state)")
    one.add_argument("--topology", type=Path, default=Path("topology.yaml"), help="default: ./topology.yaml")
    one.add_argument("--vault", type=Path, help="the vault's file (default: the topology's, else STATE/keys.vault)")
    one.add_argument("--passphrase-fd", type=int, default=-1, metavar="N", help="read the passphrase from descriptor N")
    one.add_argument("--json", action="store_true", help="print JSON for machines")
    one.set_defaults(nats=None)


def _later_s(text: str) -> int:
    if not text or text[-1:] not in UNITS_S:
        raise argparse.ArgumentTypeError("write a number and one of s, m, h, d, for example 90d")
    return since_s(text)


def run(args: argparse.Namespace) -> int:
    """Do it; 0 done, 1 not done, 2 refused."""
    try:
        from understudy.tools import key_commands
    except ImportError as missing:
        return complain("not_installed", f"{missing.name} is missing: pip install 'understudy[serve]'", args)
    return key_commands.run(args)
