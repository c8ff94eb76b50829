"""``make gpu``: build, measure, test and check on the GPU of this machine, the most important first."""
