"""Find the blocks and linears of any model; capture what goes into them; read and write models."""
