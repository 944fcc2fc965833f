"""`python -m bridge` is `trunkbridge`."""

from bridge.cli import main

main(prog_name="trunkbridge")
