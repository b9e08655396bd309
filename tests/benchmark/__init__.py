"""What the project's speed is measured with: tgt and plain sockets as peers, growth, fairness.

``python -m tests.benchmark`` runs it, ``make bench-peers`` all of it; ``docs/performance.md`` describes it.
"""
