"""Backtests: a history cut into rounds, methods that forecast them, and what that was worth."""
