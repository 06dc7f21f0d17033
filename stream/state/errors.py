"""What can go wrong with the state store.

StoreError               base; the user can mend it: the command ends with status 2 and the message
├── StoreUnavailable     the store does not answer or refuses: whether it holds a snapshot is not known
└── SnapshotFromElsewhere  a snapshot of another configuration, or of a newer nowcart
Damaged                  (a value, kept inside this package) a part or a manifest is not what was written
"""

from __future__ import annotations

from stream.tables import UserError


class StoreError(UserError):
    """The state store cannot be used; the message says what must hold, what was got, what to do."""


class StoreUnavailable(StoreError):
    """The store does not answer or refuses: not the same as holding nothing."""


class SnapshotFromElsewhere(StoreError):
    """A snapshot that this process must not use, although it is whole."""


class Damaged(Exception):
    """A part or a manifest is missing or is not what was written."""
