"""The fake provider: a real HTTP server on loopback that speaks providers' dialects and fails on demand.

Tests start it in their own process (`FakeProvider`, server.py); people start it with
`python -m understudy.tools.fake`. How a model name behaves is data (faults.json, read by script.py); what goes over the
wire is in `exchange.py` and in one module per dialect, as pure functions.
"""
