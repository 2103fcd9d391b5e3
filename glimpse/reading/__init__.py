"""One way of reading cases: the records it leaves, the lanes in which cases lie side by side, and the readers."""
