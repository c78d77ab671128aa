"""What the benches of the performance graph share: homes to write to, a log to write from, and a reader of that log's
raw bytes that shares no code with the fold."""
