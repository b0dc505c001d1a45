"""Delivers failed ticket messages after all: one safe pass per call."""
