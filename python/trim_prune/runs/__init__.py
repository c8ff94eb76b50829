"""Runs that stop and go on: the folder of an unfinished run, its journal, and how another run knows it."""
