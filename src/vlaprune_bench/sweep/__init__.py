"""Sweeps: a YAML file of axes, a results folder, and what the one lacks in the other."""
