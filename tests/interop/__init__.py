"""Runs our code against other people's: each row of ``docs/interop.md`` is a module under ``rows/``.

``make interop`` (``python -m tests.interop``) runs them all in the lab and writes the page.  To add a row, add a
module: a test class with an attribute ``row`` whose tests are marked ``@feature(Feature.…)``.  The tests of a side of
ours are in ``initiator_row`` and ``target_row``; what differs between peers is in ``peers/``.
"""
