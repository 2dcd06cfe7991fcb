"""Policies behind a websocket: one file a dialect, its client's and its server's side."""
