"""Machines: what a study may use, and whether it is there."""
