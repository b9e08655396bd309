"""libiscsi's ``iscsi-test-cu`` against our target over TCP: ``python -m tests.conformance``, ``make conformance``."""
