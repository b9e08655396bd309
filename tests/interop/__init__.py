"""Runs our code against other people's: each row of ``docs/interop.md`` is a module under ``rows/``.

``make interop`` (``python -m tests.interop``) runs them all in the lab and writes the page.  To add a row, add a
module: a test class with an attribute ``row`` whose tests are marked ``@feature(Feature.…)``.  What the rows of a side
have in common is in ``initiator_row`` (and ``guest_verbs``, its like for our initiator in the guest) and
``kernel_row``; what differs between peers is in ``peers/``.  A fault of a peer that we work round has a test marked
``@peer_fault``, which shows it.

Two workers of pytest-xdist run the rows, each with a machine of its own, and take them class by class: a class may
find a peer started, but nothing that another class did.
"""
