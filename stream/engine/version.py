"""The version of the engines' state, apart from the engines: who lists snapshots needs no network and no model."""

VERSION = 3
"""Grows with every change that an older reader of the state could not follow."""
