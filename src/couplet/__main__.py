"""``python -m couplet``, as torchrun starts it."""

from couplet.cli import main

main()
