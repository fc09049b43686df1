# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""All of ds4-fleet that runs on a Mac: Python 3.9 and its standard library, nothing else.

Ansible packs what a module imports of it; a program under launchd is the whole of it as one file (see
`__main__`); the controller imports it where it decides the same.
"""
