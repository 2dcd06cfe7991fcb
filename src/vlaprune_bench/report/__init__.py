"""Reports from parquet alone: neither torch nor a simulator is imported here."""
