"""The version of the engines' state, apart from the engines: who lists snapshots needs no network and no model."""

OLDEST = 3
"""What is still read. Versions 1 and 2 were never part of a release."""
VERSION = 6
"""Grows with every change that an older reader of the state could not follow."""
