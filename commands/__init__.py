"""Every `tandem` command, one file each: it parses, calls one function, and prints.

`models/` and `batch/` are groups of commands. A command whose work belongs to no other package keeps that work in a
folder beside itself: `doctor/`, `package/`. Only `tandem.py` imports this package.

What a command needs it imports when it is called, so that `--help` answers at once.
"""
