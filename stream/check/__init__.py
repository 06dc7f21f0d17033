"""Looks at a shop's own messages before anything runs: how they are understood, and whether sessions keep to their partition.

Reads and compares only; showing what was found is the command line's.
"""

from stream.check.sample import SplitSessions, count_splits, split_sessions
from stream.check.understand import Understood, understand

__all__ = ["SplitSessions", "Understood", "count_splits", "split_sessions", "understand"]
