"""Checks of a machine, for vlaprune-doctor."""
