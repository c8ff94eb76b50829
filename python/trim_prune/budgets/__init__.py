"""Budgets: how many weights may go, and where? Per linear (layers) and per row (rows)."""
