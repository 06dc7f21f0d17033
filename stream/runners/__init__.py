"""The loops: they time, count, retry and commit; the engines below them are pure."""
