"""How the suites of the benchmarker are made: `python -m understudy.tools.suites.make`."""
