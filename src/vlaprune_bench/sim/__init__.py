"""LIBERO tasks in MuJoCo: finding assets, choosing a renderer, and one task environment.

Start at `libero.LiberoTask`. Importing this package imports neither mujoco nor libero; that happens
when the first environment is made.
"""
