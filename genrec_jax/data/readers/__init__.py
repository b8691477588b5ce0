"""Readers of raw logs: one module each, imported only when it is asked for."""
