"""Certificates: the first settings in an order of cost that keep what works, tested bet by bet."""
