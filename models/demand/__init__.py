"""Demand experts, one file each, and the forecaster that mixes them."""
