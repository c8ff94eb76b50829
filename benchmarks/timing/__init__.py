"""How long calls take: :mod:`wall` for a CPU, :mod:`device` for a GPU."""
