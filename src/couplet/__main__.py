"""``python -m couplet``, as torchrun starts it."""

from couplet.cli.main import main

main()
